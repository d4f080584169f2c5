"""Deliveries: what became of each message for each recipient, and what to do about it."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from mailapp import operating
from mailapp.counting import CAP
from mailapp.mime import visible
from mailapp.models import (
    OPERATOR_MAY,
    OUTGOING,
    Delivery,
    Message,
    Place,
    Queue,
    Status,
    Suppression,
    Transition,
)

from . import display
from .counting import Excerpt
from .filters import HandlerFilter
from .pages import Verb, VerbAdmin


class QueueFilter(admin.SimpleListFilter):
    title = "queue"
    parameter_name = "queue"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in Queue.objects.values_list("name", flat=True)]

    def queryset(self, request: HttpRequest, queryset: Any) -> QuerySet[Any]:
        return queryset.filter(queue=self.value()) if self.value() else queryset


class StatusFilter(admin.SimpleListFilter):
    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(value), str(label)) for value, label in Status.choices]

    def queryset(self, request: HttpRequest, queryset: Any) -> QuerySet[Any]:
        if not self.value():
            return queryset
        # Naming every queue lets the index on queue and status answer.
        return queryset.filter(status=self.value(), queue__in=Queue.objects.values("name"))


@admin.register(Delivery)
class DeliveryAdmin(VerbAdmin):
    list_display = ["envelope", "standing", "outcome", "arrived", "attempts"]
    list_display_links = ["envelope"]
    list_filter = [QueueFilter, StatusFilter, HandlerFilter]  # the last reads what others leave
    list_select_related = ["message"]
    search_fields = ["recipient"]
    search_help_text = "The whole address of a recipient or of the person who wrote."
    fieldsets = [
        (
            None,
            {"fields": [("to", "sent_by", "mail"), ("status_badge", "queue_link", "last_reply")]},
        ),
        (
            "Work",
            {
                "fields": [
                    ("arrived", "due", "attempts"),
                    ("written_by", "taken_by", "worked_by"),
                ]
            },
        ),
    ]
    verbs = (
        Verb("retry", "Retry now", "Retried", "retry"),
        Verb("hold", "Hold", "Held", "hold"),
        Verb("release", "Release", "Released", "hold"),
        Verb("discard", "Discard", "Discarded", "discard"),
    )

    @admin.display(description="recipient and sender")
    def envelope(self, row: Delivery) -> SafeString:
        return format_html("{} <small>from {}</small>", self.to(row), self.sender(row))

    @admin.display(description="message and last reply")
    def outcome(self, row: Delivery) -> SafeString:
        return format_html("{} <small>{}</small>", self.mail(row), visible(row.reply))

    @admin.display(description="status")
    def standing(self, row: Delivery) -> SafeString:
        return format_html("{} <small>{}</small>", self.status_badge(row), row.queue_id)

    @admin.display(description="recipient")
    def to(self, row: Delivery) -> SafeString:
        return display.address(row.recipient)

    def sender(self, row: Delivery) -> SafeString:
        return display.address(row.message.sender)

    @admin.display(description="sender")
    def sent_by(self, row: Delivery) -> SafeString:
        return display.person(row.message.sender, empty="<>")

    @admin.display(description="message")
    def mail(self, row: Delivery) -> SafeString | str:
        return display.link(row.message)

    @admin.display(description="status")
    def status_badge(self, row: Delivery) -> SafeString:
        return display.badge(row.status)

    @admin.display(description="queue")
    def queue_link(self, row: Delivery) -> SafeString | str:
        return display.link(row.queue)

    @admin.display(description="last reply or reason")
    def last_reply(self, row: Delivery) -> SafeString:
        return display.stranger(row.reply)

    @admin.display(description="arrived")
    def arrived(self, row: Delivery) -> SafeString | str:
        return display.moment(row.created_at)

    @admin.display(description="due")
    def due(self, row: Delivery) -> SafeString | str:
        return "after that one" if _ahead_of(row) else display.moment(row.due_at)

    @admin.display(description="claimed by")
    def worked_by(self, row: Delivery) -> SafeString | str:
        return display.link(row.claimed_by)

    @admin.display(description="handler")
    def taken_by(self, row: Delivery) -> SafeString | str:
        return display.link(row.handler)

    @admin.display(description="person")
    def written_by(self, row: Delivery) -> SafeString:
        return display.person(row.person)

    def get_search_results(
        self, request: HttpRequest, queryset: Any, search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find the deliveries of a whole address, by index."""
        if term := search_term.strip():
            queryset = queryset.of_address(term)
        return queryset, False

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("mailapp.retry_delivery")

    def has_hold_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("mailapp.hold_delivery")

    def has_discard_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("mailapp.discard_delivery")

    def get_fieldsets(self, request: HttpRequest, obj: Delivery | None = None) -> Any:
        """Show, too, why nothing is sent to the recipient, or which mail it waits for."""
        if obj is None:
            return self.fieldsets
        there = {"suppression": _suppression(obj), "waits_for": _ahead_of(obj)}
        (name, first), *others = self.fieldsets
        fields = [*first["fields"], *(field for field, row in there.items() if row)]
        return [(name, {"fields": fields}), *others]

    @admin.display(description="suppressed")
    def suppression(self, row: Delivery) -> SafeString | str:
        return display.link(_suppression(row))

    @admin.display(description="waits for")
    def waits_for(self, row: Delivery) -> SafeString | str:
        return display.link(_ahead_of(row))

    def is_open_to(self, row: Delivery, verb: Verb) -> bool:
        return row.status in OPERATOR_MAY[verb.name]

    def act(self, request: HttpRequest, queryset: Any, verb: Verb) -> int:
        """Do it in order of arrival, in slices that are committed each with its log entries.

        No more than `CAP` rows at once, as the list counts them.
        """
        return operating.act(
            queryset,
            verb.name,
            f"{verb.past} by {request.user.get_username()}",
            most=CAP,
            log=lambda rows: self.log(request, rows, verb),
        )

    def page_context(self, request: HttpRequest, row: Delivery) -> dict[str, Any]:
        attempts = row.attempt_set.select_related("process").order_by("-id")
        moves = row.transitions.select_related("conversation__handler")
        effects = Delivery.objects.filter(message__cause=row).select_related("message")
        return {
            **super().page_context(request, row),
            "attempts": Excerpt(attempts),
            "transitions": Excerpt(moves, display.list_url(Transition, delivery=row.pk)),
            "effects": Excerpt(effects.order_by("id"), display.list_url(Message, cause=row.pk)),
        }


def _suppression(row: Delivery) -> Suppression | None:
    return Suppression.objects.of(row.recipient) if row.queue_id == OUTGOING else None


def _ahead_of(row: Delivery) -> Delivery | None:
    """The delivery whose end this one waits for, whatever it says that it is due."""
    return Place.objects.ahead_of(row) if row.status == Status.DEFERRED else None
