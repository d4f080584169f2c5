"""Messages: the envelope, the session, what the mail says, and what became of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import Http404, HttpRequest, HttpResponse
from django.template.defaultfilters import filesizeformat
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.decorators import method_decorator
from django.utils.http import content_disposition_header
from django.utils.safestring import SafeString
from django.views.decorators.clickjacking import xframe_options_sameorigin

from mailapp.counting import CAP
from mailapp.mime import visible
from mailapp.models import Delivery, Message

from . import display
from .counting import Excerpt
from .letter import Letter, file_name
from .pages import MailAdmin

_INERT = "default-src 'none'; sandbox; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
_INERT_WITH_STYLE = f"{_INERT}; style-src 'self'"


@admin.register(Message)
class MessageAdmin(MailAdmin):
    list_display = ["title", "sent_by", "sent_to", "came_by", "octets", "stored"]
    list_display_links = ["title"]
    search_fields = ["message_id"]
    found = "whole addresses and Message-IDs"
    search_help_text = (
        "A whole Message-ID with its angle brackets, or the whole address of a recipient "
        "or of the person who wrote."
    )
    fieldsets = [
        (
            "Envelope",
            {
                "fields": [
                    ("written_by", "sent_to", "stored"),
                    ("octets", "authentication", "caused_by"),
                ]
            },
        ),
        (
            "Session",
            {"fields": [("came_by", "encryption"), ("client", "helo_name")]},
        ),
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Message]:
        # Any recipient, and any other: in no order, so that one row each is read.
        recipients = Delivery.objects.filter(message=OuterRef("pk")).order_by()
        return (
            super()
            .get_queryset(request)
            .annotate(
                a_recipient=Subquery(recipients.values("recipient")[:1]),
                another_recipient=Subquery(recipients.values("recipient")[1:2]),
            )
        )

    @admin.display(description="subject")
    def title(self, row: Message) -> SafeString:
        return display.stranger(row.subject, empty="(no subject)")

    @admin.display(description="sender")
    def sent_by(self, row: Message) -> SafeString:
        return display.address(row.sender)

    @admin.display(description="sender")
    def written_by(self, row: Message) -> SafeString:
        return display.person(row.sender, empty="<>")

    @admin.display(description="recipient")
    def sent_to(self, row: Any) -> SafeString:
        if row.another_recipient is None:
            return display.stranger(row.a_recipient)
        return display.list_link(Delivery, f"{visible(row.a_recipient)} and more", message=row.pk)

    @admin.display(description="came by")
    def came_by(self, row: Message) -> str:
        return row.protocol or "composed here"

    @admin.display(description="size")
    def octets(self, row: Message) -> str:
        return filesizeformat(row.size)

    @admin.display(description="stored")
    def stored(self, row: Message) -> SafeString | str:
        return display.moment(row.created_at)

    @admin.display(description="peer")
    def client(self, row: Message) -> SafeString:
        return display.stranger(row.peer)

    @admin.display(description="HELO")
    def helo_name(self, row: Message) -> SafeString:
        return display.stranger(row.helo)

    @admin.display(description="TLS")
    def encryption(self, row: Message) -> SafeString:
        return display.stranger(row.tls, empty="none")

    @admin.display(description="verdict")
    def authentication(self, row: Message) -> SafeString:
        return display.stranger(json.dumps(row.verdict, sort_keys=True) if row.verdict else "")

    @admin.display(description="caused by")
    def caused_by(self, row: Message) -> SafeString | str:
        return display.link(row.cause)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Message], search_term: str
    ) -> tuple[QuerySet[Message], bool]:
        """Find a Message-ID, which reads the table, or the messages of an address, by index."""
        term = search_term.strip()
        if term.startswith("<"):
            queryset = queryset.filter(message_id=term)
        elif term:
            # The ids come from the indexes alone; only the latest rows are looked up.
            latest = Delivery.objects.of_address(term).order_by("-id").values("id")[:CAP]
            of_latest = Delivery.objects.filter(id__in=latest).order_by()
            queryset = queryset.filter(pk__in=of_latest.values("message"))
        return queryset, False

    def page_context(self, request: HttpRequest, row: Message) -> dict[str, Any]:
        deliveries = row.deliveries.select_related("message", "queue").order_by("id")
        effects = Delivery.objects.filter(message__cause__message=row).select_related("message")
        return {
            "letter": Letter.of(row),
            "deliveries": Excerpt(deliveries, display.list_url(Delivery, message=row.pk)),
            "effects": Excerpt(effects.order_by("id")),
        }

    def get_urls(self) -> list[URLPattern]:
        return [
            self._path("source", self.source_view),
            self._path("eml", self.eml_view),
            self._path("html", self.html_view),
            self._path("part", self.part_view, "<int:number>/"),
            *super().get_urls(),
        ]

    def _path(self, name: str, view: Callable[..., HttpResponse], more: str = "") -> URLPattern:
        route = f"<path:object_id>/{name}/{more}"
        return path(route, self.admin_site.admin_view(view), name=f"mailapp_message_{name}")

    def letter(self, request: HttpRequest, object_id: str) -> Letter:
        """The mail of an address that this user may see; Http404 when its bytes are gone."""
        letter = Letter.of(self.visible_row(request, object_id))
        if letter is None:
            raise Http404
        return letter

    def source_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The bytes as text."""
        raw = self.letter(request, object_id).raw
        return HttpResponse(raw, content_type="text/plain; charset=utf-8", headers=_inert())

    def eml_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The bytes as a file for a mail program."""
        raw = self.letter(request, object_id).raw
        return _download(raw, f"message-{object_id}.eml")

    @method_decorator(xframe_options_sameorigin)
    def html_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The cleaned HTML part, for a sandboxed frame."""
        context = {"html": self.letter(request, object_id).html}
        headers = _inert(_INERT_WITH_STYLE)
        return TemplateResponse(
            request, "admin/mailapp/message/html_part.html", context, headers=headers
        )

    def part_view(self, request: HttpRequest, object_id: str, number: int) -> HttpResponse:
        """An attachment, always as a file, never as what it says it is."""
        attachments = self.letter(request, object_id).attachments
        if number >= len(attachments):
            raise Http404
        return _download(attachments[number].content, file_name(attachments[number], number))


def _inert(policy: str = _INERT) -> dict[str, str]:
    return {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}


def _download(content: bytes, name: str) -> HttpResponse:
    disposition = content_disposition_header(as_attachment=True, filename=name)
    return HttpResponse(
        content,
        content_type="application/octet-stream",
        headers={**_inert(), "Content-Disposition": str(disposition)},
    )
