"""Mail templates: blocks `subject`, `text` and, if wanted, `html` in one Django template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from django.template import Context
from render_block import BlockNotFound, render_block_to_string

from mailapp.mime import one_line


class Rendered(NamedTuple):
    """The parts of a rendered template; a part that it does not have is ""."""

    subject: str
    text: str
    html: str


def render(template: str, context: Mapping[str, Any]) -> Rendered:
    """Render a mail template; only its HTML is escaped.

    Raise TemplateDoesNotExist for an unknown template.
    """
    plain = Context(dict(context), autoescape=False)
    return Rendered(
        one_line(_block(template, "subject", plain)),
        _block(template, "text", plain).strip("\n") + "\n",
        _block(template, "html", Context(dict(context))),
    )


def _block(template: str, name: str, context: Context) -> str:
    try:
        return render_block_to_string(template, name, context)
    except BlockNotFound:
        return ""
