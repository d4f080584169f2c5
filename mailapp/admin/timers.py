"""Timers: what will run for a conversation that stays where it is, and what failed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import SEARCH_VAR, ChangeList
from django.db import transaction
from django.db.models import QuerySet
from django.db.models.expressions import Combinable
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.html import format_html
from django.utils.safestring import SafeString

from mailapp import wakeup
from mailapp.addresses import fold
from mailapp.mime import visible
from mailapp.models import INCOMING, Timer

from . import display
from .filters import HandlerFilter
from .pages import Verb, VerbAdmin


class StandingFilter(admin.SimpleListFilter):
    """Those that wait, unless somebody is searched for, or chooses otherwise."""

    title = "standing"
    parameter_name = "standing"

    def __init__(self, request: HttpRequest, *args: Any) -> None:
        self.chosen = _chosen(request)
        super().__init__(request, *args)

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("waiting", "Waiting"), ("held", "Held"), ("all", "All")]

    def value(self) -> str:
        return self.chosen

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        _, *ours = super().choices(changelist)  # without an All that is not chosen by name
        yield from ours

    def queryset(self, request: HttpRequest, queryset: Any) -> QuerySet[Any]:
        match self.value():
            case "waiting":
                return queryset.filter(due_at__isnull=False)
            case "held":
                return queryset.held()
        return queryset


def _chosen(request: HttpRequest) -> str:
    return request.GET.get(StandingFilter.parameter_name) or (
        "all" if _is_searched(request) else "waiting"
    )


def _is_searched(request: HttpRequest) -> bool:
    return bool(request.GET.get(SEARCH_VAR, "").strip())


class ConversationHandlerFilter(HandlerFilter):
    lookup = "conversation__handler__module"


@admin.register(Timer)
class TimerAdmin(VerbAdmin):
    list_display = ["runs", "whose", "standing", "due", "tries"]
    list_display_links = ["runs"]
    list_filter = [StandingFilter, ConversationHandlerFilter]
    search_fields = ["conversation__person"]
    search_help_text = "The whole address of the person."
    list_select_related = ["conversation__handler"]
    fieldsets = [
        (
            None,
            {
                "fields": [
                    ("whose", "state", "function"),
                    ("standing", "due", "tries"),
                    ("worked_by", "last_reply"),
                ]
            },
        ),
    ]
    verbs = (
        Verb("retry", "Retry now", "Retried", "retry"),
        Verb("discard", "Discard", "Discarded", "discard"),
    )

    @admin.display(description="function, and why it failed")
    def runs(self, row: Timer) -> SafeString:
        return format_html("{} <small>{}</small>", row, visible(row.reply))

    @admin.display(description="conversation")
    def whose(self, row: Timer) -> SafeString:
        conversation = display.link(row.conversation, row.conversation.person)
        return format_html("{} <small>{}</small>", conversation, row.conversation.handler)

    @admin.display(description="standing")
    def standing(self, row: Timer) -> SafeString:
        if row.due_at is None:
            return display.badge("held")
        if row.claimed_by_id:
            return display.badge("claimed")
        return display.badge("deferred") if row.tries else display.badge("queued", "Waiting")

    @admin.display(description="due")
    def due(self, row: Timer) -> SafeString | str:
        return display.moment(row.due_at)

    @admin.display(description="claimed by")
    def worked_by(self, row: Timer) -> SafeString | str:
        return display.link(row.claimed_by)

    @admin.display(description="why it failed")
    def last_reply(self, row: Timer) -> SafeString:
        return display.stranger(row.reply)

    def get_ordering(self, request: HttpRequest) -> list[str | Combinable]:
        """The next first, where an index has them so or the search leaves few."""
        next_first = _chosen(request) == "waiting" or _is_searched(request)
        return ["due_at", "id"] if next_first else ["-id"]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Timer], search_term: str
    ) -> tuple[QuerySet[Timer], bool]:
        """Find the timers of a person's conversations, by index."""
        if term := search_term.strip():
            queryset = queryset.filter(conversation__person=fold(term))
        return queryset, False

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("mailapp.retry_timer")

    def has_discard_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("mailapp.discard_timer")

    def is_open_to(self, row: Timer, verb: Verb) -> bool:
        return row.due_at is None

    def act(self, request: HttpRequest, queryset: Any, verb: Verb) -> int:
        with transaction.atomic():
            rows = list(queryset.held().select_for_update(no_key=True, of=("self",)))
            held = Timer.objects.filter(pk__in=[row.pk for row in rows])
            self.log(request, rows, verb)
            if verb.name == "retry":
                held.retry()
                wakeup.notify(INCOMING)
            else:
                held.discard()
        return len(rows)

    def act_view(self, request: HttpRequest, object_id: str, name: str) -> HttpResponse:
        """Do a verb, and go on to the conversation, since what is discarded has no page."""
        conversation = self.visible_row(request, object_id).conversation
        super().act_view(request, object_id, name)
        return HttpResponseRedirect(display.page_url(conversation))
