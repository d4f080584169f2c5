"""A mail, read for the eye. Never raises and never fetches anything, whatever the bytes are."""

from __future__ import annotations

import html
import re
from functools import cached_property

import nh3

from mailapp import hypertext, mime
from mailapp.models import Message, RawMessage

TEXT_LIMIT = 200_000  #: characters of a body on a page; the source has them all
_FILE_NAME = re.compile(r"[^\w.() -]")

_SHORT = 600  # characters of HTML: a few lines
_TARGET_LIMIT = 100

# Nothing that is fetched or followed: a click or a picture would tell the sender who read.
_INERT = {tag: names - {"src", "href", "cite"} for tag, names in nh3.ALLOWED_ATTRIBUTES.items()}
_WITH_LINKS = {**_INERT, "a": {"href"}}
_WITH_TARGETS = {**_INERT, "a": {"data-target"}}  # which no mail brings: it would not be allowed
_LINK = re.compile(r'<a href="([^"]*)"')

# For each of these that is not closed, nh3 looks at all before it: 4000 take it four seconds.
_MOST_FORMATS = 2000
_FORMAT = re.compile(
    r"<(?:b|big|code|em|font|i|nobr|s|small|strike|strong|tt|u)[\s/]", re.IGNORECASE
)


class Letter:
    """The headers, the bodies and the attachments of a mail."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self._parsed = mime.parse(raw)

    @classmethod
    def of(cls, message: Message) -> Letter | None:
        """Read the bytes of a message; None when they are gone."""
        try:
            return cls(message.raw)
        except (RawMessage.DoesNotExist, OSError):
            return None

    @cached_property
    def headers(self) -> list[tuple[str, str]]:
        return mime.headers(self._parsed)

    @cached_property
    def text(self) -> str:
        """The plain text, cut to what a page can bear."""
        return mime.text_of(self._parsed)[:TEXT_LIMIT].replace("\r", "\n")

    @property
    def is_cut(self) -> bool:
        return len(self.text) == TEXT_LIMIT

    @cached_property
    def html(self) -> str:
        """The HTML part without scripts, styles, forms and pictures; "" without one.

        Its links cannot be followed, but each says where it would have led. Of what would take too
        long to clean it is the text.
        """
        told = mime.visible(mime.text_of(self._parsed, "html"))
        if sum(1 for _ in _FORMAT.finditer(told)) > _MOST_FORMATS:
            told = f"<pre>{html.escape(hypertext.text_of(told))}</pre>"
        linked = nh3.clean(told, attributes=_WITH_LINKS, link_rel=None)
        # Cleaned once more, so that nothing rests on how the links were found.
        return nh3.clean(_LINK.sub(_target, linked), attributes=_WITH_TARGETS, link_rel=None)

    @property
    def is_short(self) -> bool:
        """True when the HTML part needs no high frame."""
        return len(self.html) < _SHORT

    @cached_property
    def attachments(self) -> list[mime.Attachment]:
        return mime.attachments(self._parsed)


def _target(link: re.Match[str]) -> str:
    target = html.unescape(link[1])
    shown = mime.visible(target[:_TARGET_LIMIT]) + "…" * (len(target) > _TARGET_LIMIT)
    return f'<a data-target="{html.escape(shown)}"'


def file_name(attachment: mime.Attachment, number: int) -> str:
    """A name that is safe in a header and on a disk: no path, no controls, nothing hidden."""
    name = _FILE_NAME.sub("_", attachment.filename).strip(". ")
    return name[-100:] or f"part-{number}.bin"
