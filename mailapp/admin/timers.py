"""Timers: what will run for a conversation that stays where it is, and what failed."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.html import format_html
from django.utils.safestring import SafeString

from mailapp import wakeup
from mailapp.mime import visible
from mailapp.models import INCOMING, Timer

from . import display
from .pages import Verb, VerbAdmin


class StandingFilter(admin.SimpleListFilter):
    title = "standing"
    parameter_name = "standing"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("waiting", "Waiting"), ("held", "Held")]

    def queryset(self, request: HttpRequest, queryset: Any) -> QuerySet[Any]:
        match self.value():
            case "waiting":
                return queryset.filter(due_at__isnull=False)
            case "held":
                return queryset.held()
        return queryset


@admin.register(Timer)
class TimerAdmin(VerbAdmin):
    list_display = ["runs", "whose", "standing", "due", "tries"]
    list_display_links = ["runs"]
    list_filter = [StandingFilter]
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
    def whose(self, row: Timer) -> SafeString | str:
        return display.link(row.conversation, row.conversation.person)

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
