"""Handlers: which modules take mail, in which order, and by which routes."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from mailapp.models import Handler
from mailapp.registry import handler_modules
from mailapp.routing import State, TimerFunction

from . import display
from .pages import Verb, VerbAdmin


@admin.register(Handler)
class HandlerAdmin(VerbAdmin):
    """Order and switch are written here; running processes see them within a second."""

    list_display = ["module", "summary", "presence", "order", "enabled"]
    list_editable = ["order", "enabled"]
    ordering = ["order", "module"]
    fieldsets = [
        (None, {"fields": [("module", "presence"), "documentation"]}),
        ("Choice", {"fields": ["order", "enabled"]}),
    ]
    readonly_fields = ["module", "presence", "documentation"]
    verbs = (
        Verb("switch_on", "Switch on", "Switched on", "change"),
        Verb("switch_off", "Switch off", "Switched off", "change"),
    )

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("mailapp.change_handler")

    @admin.display(description="what it does")
    def summary(self, row: Handler) -> str:
        return row.description.partition("\n\n")[0]

    @admin.display(description="description")
    def documentation(self, row: Handler) -> str:
        return row.description

    @admin.display(description="in the code")
    def presence(self, row: Handler) -> SafeString:
        return display.badge("found") if row.found else display.badge("missing")

    def is_open_to(self, row: Handler, verb: Verb) -> bool:
        return row.enabled == (verb.name == "switch_off")

    def act(self, request: HttpRequest, queryset: QuerySet[Handler], verb: Verb) -> int:
        with transaction.atomic():
            rows = [row for row in queryset if self.is_open_to(row, verb)]
            for row in rows:
                row.enabled = verb.name == "switch_on"
                row.save(update_fields=["enabled"])
            self.log(request, rows, verb)
        return len(rows)

    def page_context(self, request: HttpRequest, row: Handler) -> dict[str, Any]:
        states = states_of(row)
        return {
            **super().page_context(request, row),
            "states": states,
            "captures": captures_of(states),
            "timers": timers_of(row),
        }


def states_of(handler: Handler) -> list[State]:
    """The state functions of a handler, as its module has them now."""
    module = handler_modules().get(handler.module)
    return list(module.states.values()) if module else []


def timers_of(handler: Handler) -> list[tuple[str, TimerFunction]]:
    """The timers of a handler, as its module has them now, each with the state it is for."""
    module = handler_modules().get(handler.module)
    timers = module.timers if module else {}
    return [(state, timer) for state, found in timers.items() for timer in found]


def captures_of(states: list[State]) -> list[tuple[str, str]]:
    """The regular expressions that the routes give to their captures, each once."""
    routes = (route for state in states for route in state.routes)
    return sorted({capture for route in routes for capture in route.captures.items()})
