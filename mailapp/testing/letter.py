"""A mail as the person sees it whom it reached."""

from __future__ import annotations

import email.message
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from mailapp import mime, people

if TYPE_CHECKING:
    from .person import Person


@dataclass(frozen=True)
class Letter:
    """A mail that came to a person: its envelope, its bytes, and what they say."""

    sender: str  #: of the envelope; `""` is the null sender
    raw: bytes
    reader: Person

    def __str__(self) -> str:
        return f"{self.subject!r} by {self.author} from {self.sender or '<>'}"

    @cached_property
    def parsed(self) -> email.message.Message:
        """The mail as the standard library sees it."""
        return mime.parse(self.raw)

    @property
    def headers(self) -> list[tuple[str, str]]:
        """All header fields in order, decoded, each on one line."""
        return mime.headers(self.parsed)

    def header(self, name: str) -> str:
        """The first header field of that name, decoded, on one line; "" without one."""
        return mime.header(self.parsed, name)

    @property
    def subject(self) -> str:
        return self.header("Subject")

    @property
    def author(self) -> str:
        """The address of the From header."""
        return self._address("From")

    @property
    def answer_to(self) -> str:
        """Where an answer goes: Reply-To, else From."""
        return self._address("Reply-To") or self.author

    def _address(self, name: str) -> str:
        found = people.mailboxes(mime.raw_header(self.parsed, name))
        return next((address for _, address in found if address), "")

    def body(self) -> str:
        """The first plain text part; "" without one."""
        return mime.text_of(self.parsed)

    def html(self) -> str:
        """The first HTML part; "" without one."""
        return mime.text_of(self.parsed, "html")

    @property
    def attachments(self) -> list[mime.Attachment]:
        """The parts that are not the text."""
        return mime.attachments(self.parsed)

    def respond(self, body: str = "") -> str:
        """Answer as a mail program does, to Reply-To or From; return or raise as `say` does."""
        message_id = self.header("Message-ID")
        references = f"{self.header('References')} {message_id}".strip()
        return self.reader.say(
            self.answer_to,
            body,
            subject=f"Re: {self.subject.removeprefix('Re: ')}",
            headers={"In-Reply-To": message_id, "References": references} if message_id else {},
        )
