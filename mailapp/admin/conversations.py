"""Conversations: the state of each person with each handler, and how it came to that."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.http import require_POST

from mailapp import ages, dispatch
from mailapp.addresses import fold
from mailapp.counting import CAP
from mailapp.errors import ConversationMoved
from mailapp.models import Conversation, Handler, Transition
from mailapp.registry import handler_modules

from . import display
from .counting import Excerpt
from .filters import newest
from .pages import MailAdmin

_MAY_MOVE = "mailapp.move_conversation"


class StateFilter(admin.SimpleListFilter):
    """The states of the handler that is chosen; no index leads from a state to its rows."""

    title = f"state, in the newest {CAP}"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        chosen = request.GET.get("handler__id__exact", "")
        handler = Handler.objects.filter(pk=chosen).first() if chosen.isdecimal() else None
        return [(name, name) for name in _states_of(handler)] if handler else []

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        state, states = self.value(), [name for name, _ in self.lookup_choices]
        return newest(queryset).filter(state=state) if state in states else queryset


@admin.register(Conversation)
class ConversationAdmin(MailAdmin):
    list_display = ["whose", "state", "last_change"]
    list_display_links = ["whose"]
    list_filter = ["handler", StateFilter]
    list_select_related = ["handler"]
    ordering = ["-id"]
    search_fields = ["person"]
    search_help_text = "The whole address of the person."
    fieldsets = [
        (
            None,
            {
                "fields": [
                    ("with_whom", "handler_link", "under_key"),
                    ("state", "began", "last_change"),
                ]
            },
        ),
    ]

    @admin.display(description="person and handler")
    def whose(self, row: Conversation) -> SafeString:
        person = display.stranger(row.person)
        key = format_html(", key {}", self.under_key(row)) if row.key else ""
        return format_html("{} <small>{}{}</small>", person, row.handler, key)

    @admin.display(description="person")
    def with_whom(self, row: Conversation) -> SafeString:
        return display.person(row.person)

    @admin.display(description="key")
    def under_key(self, row: Conversation) -> SafeString:
        return display.stranger(row.key)

    @admin.display(description="handler")
    def handler_link(self, row: Conversation) -> SafeString | str:
        return display.link(row.handler)

    @admin.display(description="began")
    def began(self, row: Conversation) -> SafeString | str:
        return display.moment(row.created_at)

    @admin.display(description="last change")
    def last_change(self, row: Conversation) -> SafeString | str:
        return display.moment(row.updated_at)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Conversation], search_term: str
    ) -> tuple[QuerySet[Conversation], bool]:
        """Find a person's conversations, by index."""
        if term := search_term.strip():
            queryset = queryset.filter(person=fold(term))
        return queryset, False

    def page_context(self, request: HttpRequest, row: Conversation) -> dict[str, Any]:
        moves = row.transitions.select_related("delivery__message", "operator").order_by("-id")
        may_move = request.user.has_perm(_MAY_MOVE)
        return {
            "data": json.dumps(row.data, indent=2, sort_keys=True, ensure_ascii=False),
            "timers": Excerpt(row.timers.order_by("due_at")),
            "transitions": Excerpt(moves, display.list_url(Transition, conversation=row.pk)),
            "states": other_states(row) if may_move else [],
        }

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(require_POST(self.move_view))
        move = path("<path:object_id>/move/", view, name="mailapp_conversation_move")
        return [move, *super().get_urls()]

    def move_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Move a conversation to a state of its handler."""
        conversation = self.visible_row(request, object_id)
        if not request.user.has_perm(_MAY_MOVE):
            raise PermissionDenied
        try:
            self._move(request, conversation)
        except ConversationMoved:
            self.message_user(request, "Not moved: it has changed since you looked.", "ERROR")
        return HttpResponseRedirect(display.page_url(conversation))

    def _move(self, request: HttpRequest, conversation: Conversation) -> None:
        was, state = conversation.state, request.POST.get("state", "")
        if request.POST.get("version") != str(conversation.version):
            raise ConversationMoved(str(conversation))
        if state not in other_states(conversation):
            self.message_user(request, "Choose a state to move to.", "WARNING")
            return
        with transaction.atomic():
            dispatch.move(conversation, state, operator=request.user)
            self.log_change(request, conversation, f"Moved from {was} to {state}")
        self.message_user(request, f"Moved from {was} to {state}.", "SUCCESS")


def other_states(conversation: Conversation) -> list[str]:
    """The states of its handler that the conversation could be in, but is not."""
    return [name for name in _states_of(conversation.handler) if name != conversation.state]


def _states_of(handler: Handler) -> list[str]:
    module = handler_modules().get(handler.module)
    states = module.states.values() if module else []
    return [state.name for state in states if not state.stateless]


@admin.register(Transition)
class TransitionAdmin(MailAdmin):
    list_display = ["when", "whose", "move", "caused_by", "mail", "ran_for"]
    list_display_links = None
    list_select_related = ["conversation__handler", "delivery__message", "operator"]
    ordering = ["-id"]
    fieldsets = [(None, {"fields": [("whose", "move", "caused_by"), ("mail", "when", "ran_for")]})]

    @admin.display(description="when")
    def when(self, row: Transition) -> SafeString | str:
        return display.moment(row.at)

    @admin.display(description="conversation")
    def whose(self, row: Transition) -> SafeString | str:
        return display.link(row.conversation, row.conversation.person)

    @admin.display(description="move")
    def move(self, row: Transition) -> str:
        return str(row)

    @admin.display(description="cause")
    def caused_by(self, row: Transition) -> str:
        return str(row.operator) if row.operator else row.get_cause_display()

    @admin.display(description="mail")
    def mail(self, row: Transition) -> SafeString | str:
        delivery = row.delivery
        return display.link(delivery, delivery.message.subject if delivery else "")

    @admin.display(description="ran for")
    def ran_for(self, row: Transition) -> str:
        return ages.duration(row.duration)
