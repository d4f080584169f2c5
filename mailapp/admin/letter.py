"""A mail, read for the eye. Never raises and never fetches anything, whatever the bytes are."""

from __future__ import annotations

import re
from functools import cached_property

import nh3

from mailapp import mime
from mailapp.models import Message, RawMessage

TEXT_LIMIT = 200_000  #: characters of a body on a page; the source has them all
_FILE_NAME = re.compile(r"[^\w.() -]")

# Nothing that is fetched or followed: a click or a picture would tell the sender who read.
_ATTRIBUTES = {
    tag: names - {"src", "href", "cite"} for tag, names in nh3.ALLOWED_ATTRIBUTES.items()
}


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
        """The HTML part without scripts, styles, forms, pictures and links; "" without one."""
        html = mime.visible(mime.text_of(self._parsed, "html"))
        return nh3.clean(html, attributes=_ATTRIBUTES, link_rel=None)

    @cached_property
    def attachments(self) -> list[mime.Attachment]:
        return mime.attachments(self._parsed)


def file_name(attachment: mime.Attachment, number: int) -> str:
    """A name that is safe in a header and on a disk: no path, no controls, nothing hidden."""
    name = _FILE_NAME.sub("_", attachment.filename).strip(". ")
    return name[-100:] or f"part-{number}.bin"
