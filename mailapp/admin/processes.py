"""Processes: which receivers, workers and relays run, and which fell silent."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from mailapp import ages
from mailapp.models import Delivery, Process

from . import display
from .counting import Excerpt
from .pages import MailAdmin


class LifeFilter(admin.SimpleListFilter):
    title = "life"
    parameter_name = "life"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("alive", "Alive"), ("silent", "Silent"), ("stopped", "Stopped")]

    def queryset(self, request: HttpRequest, queryset: Any) -> QuerySet[Any]:
        match self.value():
            case "alive":
                return queryset.alive()
            case "silent":
                return queryset.dead().filter(stopped_at=None)
            case "stopped":
                return queryset.filter(stopped_at__isnull=False)
        return queryset


@admin.register(Process)
class ProcessAdmin(MailAdmin):
    list_display = ["__str__", "life_badge", "queue", "heartbeat", "works_on", "started"]
    list_filter = [LifeFilter, "kind"]
    fieldsets = [
        (None, {"fields": [("kind", "host", "pid"), ("queue", "started", "stopped")]}),
        ("Life", {"fields": [("life_badge", "heartbeat", "works_on")]}),
    ]

    @admin.display(description="life")
    def life_badge(self, row: Process) -> SafeString:
        if row.stopped_at:
            return display.badge("stopped")
        return display.badge("alive" if row.is_alive else "silent")

    @admin.display(description="heartbeat")
    def heartbeat(self, row: Process) -> str:
        return ages.distance(row.heartbeat_at)

    @admin.display(description="activity")
    def works_on(self, row: Process) -> SafeString:
        return display.stranger(row.activity)

    @admin.display(description="started")
    def started(self, row: Process) -> SafeString | str:
        return display.moment(row.started_at)

    @admin.display(description="stopped")
    def stopped(self, row: Process) -> SafeString | str:
        return display.moment(row.stopped_at)

    def page_context(self, request: HttpRequest, row: Process) -> dict[str, Any]:
        claimed = Delivery.objects.claimed().filter(claimed_by=row).select_related("message")
        return {"claimed": Excerpt(claimed.order_by("id"))}
