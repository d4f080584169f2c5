"""How values look on the operator's pages. What a stranger wrote is made visible and escaped."""

from __future__ import annotations

from datetime import datetime

from django.contrib.admin.utils import quote
from django.db.models import Model
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from mailapp.ages import distance
from mailapp.mime import visible
from mailapp.models import Conversation, Delivery
from mailapp.overview import Problem

EMPTY = "–"


def stranger(text: str, empty: str = EMPTY) -> SafeString:
    """Show a stranger's words: escaped, and apart from the direction of the text around."""
    return format_html("<bdi>{}</bdi>", visible(text) if text else empty)


def address(text: str) -> SafeString:
    """Show an envelope address; `<>` is the null sender."""
    return stranger(text, empty="<>")


def badge(kind: str, text: str = "") -> SafeString:
    """Show a status as a coloured badge that says it in words too."""
    return format_html(
        '<span class="mail-badge mail-badge-{}">{}</span>', kind, text or kind.capitalize()
    )


def moment(at: datetime | None) -> SafeString | str:
    """Show a time to the second, with its age as a title; it may wrap after the date."""
    if at is None:
        return EMPTY
    local = timezone.localtime(at)
    return format_html(
        '<time datetime="{}" title="{}"><span>{}</span> <span>{}</span></time>',
        local.isoformat(timespec="milliseconds"),
        distance(at),
        local.strftime("%Y-%m-%d"),
        local.strftime("%H:%M:%S"),
    )


def page_url(row: Model) -> str:
    """The address of a row's page in the admin."""
    meta = row._meta
    return reverse(f"admin:{meta.app_label}_{meta.model_name}_change", args=[quote(row.pk)])


def link(row: Model | None, text: str | None = None) -> SafeString | str:
    """Link to a row's page, by the row's own name unless `text` says another."""
    if row is None:
        return EMPTY
    shown = str(row) if text is None else text
    return format_html('<a href="{}">{}</a>', page_url(row), stranger(shown, "(empty)"))


def list_url(model: type[Model], **parameters: object) -> str:
    """The address of the list of a model, narrowed by `parameters`."""
    meta = model._meta
    query = {name: str(value) for name, value in parameters.items()}
    return reverse(f"admin:{meta.app_label}_{meta.model_name}_changelist", query=query)


def problem_url(problem: Problem) -> str:
    """The address of the page that shows more of a problem."""
    if isinstance(problem.about, Model):
        return page_url(problem.about)
    return list_url(problem.about, **problem.narrowed)


def list_link(model: type[Model], text: str, **parameters: object) -> SafeString:
    """Link to the list of a model, narrowed by `parameters`."""
    return format_html('<a href="{}">{}</a>', list_url(model, **parameters), text)


def person(text: str, empty: str = EMPTY) -> SafeString:
    """Show who wrote, with links to their mail and to their conversations."""
    if not text:
        return stranger("", empty)
    mail = list_link(Delivery, "deliveries", q=text)
    conversations = list_link(Conversation, "conversations", q=text)
    return format_html("{} <small>{}, {}</small>", stranger(text), mail, conversations)
