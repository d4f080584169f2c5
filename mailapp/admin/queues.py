"""Queues: how much waits in each, since when, and whether it is paused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from mailapp import wakeup
from mailapp.conf import mail_settings
from mailapp.counting import capped
from mailapp.models import INCOMING, Delivery, Process, Queue, Status
from mailapp.overview import with_counts

from . import display
from .pages import Verb, VerbAdmin


def _count_of(status: Status) -> Callable[[Any], SafeString]:
    @admin.display(description=status.value)
    def count(row: Any) -> SafeString:
        number = capped(getattr(row, status.value))
        return display.list_link(Delivery, number, queue=row.name, status=status.value)

    count.__name__ = status.value  # which names the cell for the stylesheet
    return count


@admin.register(Queue)
class QueueAdmin(VerbAdmin):
    list_display = ["name", "purpose", "state", *map(_count_of, Status), "oldest"]
    fieldsets = [(None, {"fields": [("name", "purpose", "state"), ("description",)]})]
    verbs = (
        Verb("pause", "Pause", "Paused", "pause"),
        Verb("resume", "Resume", "Resumed", "pause"),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Queue]:
        return with_counts(super().get_queryset(request))

    @admin.display(description="state")
    def state(self, row: Queue) -> SafeString:
        return display.badge("paused") if row.paused else display.badge("open")

    @admin.display(description="oldest due")
    def oldest(self, row: Any) -> SafeString | str:
        return display.moment(row.oldest_due)

    def has_pause_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("mailapp.pause_queue")

    def is_open_to(self, row: Queue, verb: Verb) -> bool:
        if verb.name == "resume":
            return row.paused
        return not row.paused and row.purpose != Queue.Purpose.HELD  # nobody works that anyhow

    def act(self, request: HttpRequest, queryset: QuerySet[Any], verb: Verb) -> int:
        with transaction.atomic():
            rows = [row for row in queryset if self.is_open_to(row, verb)]
            for row in rows:
                if verb.name == "pause":
                    row.pause()
                else:
                    row.resume()
                    wakeup.notify(row.name)
            self.log(request, rows, verb)
        return len(rows)

    def page_context(self, request: HttpRequest, row: Queue) -> dict[str, Any]:
        return {
            **super().page_context(request, row),
            "queues": [row],
            "processes": Process.objects.alive().filter(queue=row.name),
            "nobody": _nobody(row),
        }


def _nobody(queue: Queue) -> SafeString | str:
    """How to have a queue worked that no process works; "" where it is meant to stay."""
    match queue.purpose, mail_settings().ENGINE:
        case Queue.Purpose.HELD, _:
            return ""
        case Queue.Purpose.HANDLERS, engine if engine != "local":
            return f"Its workers are those of the engine {engine}, which come and go."
    runmail = queue.name == INCOMING or queue.purpose == Queue.Purpose.RELAY
    command = "runmail" if runmail else f"runworker --queue {queue.name}"
    return format_html("None is running: start them with <code>manage.py {}</code>.", command)
