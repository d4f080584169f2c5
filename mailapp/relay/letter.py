"""A stored mail as the EmailMessage that Django's email backends take."""

from __future__ import annotations

import email.message
import io
from collections.abc import Sequence
from email.generator import BytesGenerator
from email.utils import quote
from typing import Any

import django
from django.core.mail import EmailMultiAlternatives

from mailapp import composing, mime, people
from mailapp.addresses import fold

# What the backend writes itself, and what would no longer be true of what it writes.
_NOT_COPIED = {
    *("from", "sender", "to", "cc", "bcc", "reply-to", "subject", "mime-version"),
    *("received", "return-path", "dkim-signature", "authentication-results"),
    *("arc-seal", "arc-message-signature", "arc-authentication-results"),
}


class Letter:
    """One mail, and the EmailMessages that bring it to its recipients."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._parsed = mime.parse(raw)
        self._named = {field: self._boxes(field) for field in ("To", "Cc")}

    def _boxes(self, field: str) -> dict[str, str]:
        """The mailboxes of a field, by folded address."""
        found = people.mailboxes(mime.raw_header(self._parsed, field))
        return {fold(address): _box(name, address) for name, address in found if "@" in address}

    def together(self, recipients: Sequence[str]) -> list[str]:
        """Return whom one EmailMessage may go to, since who reads it sees their names.

        That is all whom the header names; or one whom it does not.
        """
        named = [
            each for each in recipients if any(fold(each) in of for of in self._named.values())
        ]
        return named or list(recipients[:1])

    def to(self, sender: str, recipients: Sequence[str]) -> StoredMail:
        """Return an EmailMessage to these recipients, and nobody else whom the header names.

        Its `from_email` is the envelope sender, unless that is the null sender, which no backend
        takes: then the author is.
        """
        wanted = {fold(each): each for each in recipients}
        to = [box for address, box in self._named["To"].items() if address in wanted]
        others = wanted.keys() - self._named["To"].keys()
        cc = [box for address, box in self._named["Cc"].items() if address in others]
        hidden = [wanted[address] for address in others - self._named["Cc"].keys()]
        mail = StoredMail(
            subject=mime.header(self._parsed, "Subject"),
            to=[*to, *hidden],
            cc=cc,
            reply_to=list(self._boxes("Reply-To").values()),
            headers=self._headers(),
        )
        authors = self._boxes("From")
        mail.from_email = next(iter(authors.values()), sender)
        if sender and authors and [fold(sender)] != list(authors):
            mail.from_email = sender
            mail.extra_headers["From"] = ", ".join(authors.values())
        mail.stored = self._raw
        for part in mime.parts(self._parsed):
            _add(mail, part)
        return mail

    def _headers(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, value in mime.headers(self._parsed):
            if name.lower() not in _NOT_COPIED and not name.lower().startswith("content-"):
                found.setdefault(name, value)
        return found


def _box(name: str, address: str) -> str:
    return f'"{quote(name)}" <{address}>' if name else address


def _add(mail: StoredMail, part: email.message.Message) -> None:
    """Put a part where backends look for such: the text, alternatives to it, attachments."""
    kind, subtype = part.get_content_type(), part.get_content_subtype()
    inline_text = part.get_content_maintype() == "text" and not mime.is_attached(part)
    if inline_text and subtype == "plain" and not mail.body:
        mail.body = mime.text_in(part)
    elif inline_text and subtype not in {"plain", "rfc822-headers"}:
        mail.attach_alternative(mime.text_in(part), kind)
    elif part["Content-ID"]:
        mail.attachments.append(_embedded(part))  # named in the HTML
    else:
        mail.attach(mime.filename_of(part) or None, mime.content(part), kind)


def _embedded(part: email.message.Message) -> Any:
    """A part of its own kind in Django from 6.0, and of the older one before."""
    if django.VERSION >= (6, 0):
        made: email.message.Message = email.message.MIMEPart()
    else:
        from email.mime.base import MIMEBase

        made = MIMEBase(part.get_content_maintype(), part.get_content_subtype())
        del made["Content-Type"]
    for name, value in part.raw_items():
        made[name] = mime.one_line(str(value))
    made.set_payload(part.get_payload())
    return made


class StoredMail(EmailMultiAlternatives):
    """What a backend reads is there in parts; what it asks for as a whole is what was stored."""

    stored: bytes

    def message(self, policy: Any = None) -> Any:
        """Return the mail as it was stored, also where the backend would name other recipients."""
        return _Whole.of(self.stored, policy.linesep if policy else "\n")


class _Whole(email.message.Message):
    """A parsed mail that is written as it was, octet for octet, unless it was changed."""

    @classmethod
    def of(cls, raw: bytes, linesep: str) -> _Whole:
        parsed = mime.parse(raw)
        made = cls(parsed.policy)
        vars(made).update(vars(parsed))
        made.stored, made.fields_then, made.linesep = raw, list(made.raw_items()), linesep
        return made

    stored: bytes
    fields_then: list[tuple[str, Any]]
    linesep: str

    def as_bytes(self, unixfrom: bool = False, policy: Any = None, linesep: str = "") -> bytes:
        """Write it; Django up to 5.2 asks for a `linesep`."""
        if list(self.raw_items()) == self.fields_then:
            content = composing.as_sent(self.stored)
        else:
            out = io.BytesIO()
            policy = self.policy.clone(linesep="\r\n")
            BytesGenerator(out, mangle_from_=False, policy=policy).flatten(self)
            content = out.getvalue()
        return content.replace(b"\r\n", (linesep or self.linesep).encode())
