"""Somebody who writes mail to the program and expects mail from it."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Mapping, Sequence
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import localtime, make_msgid
from types import ModuleType
from typing import TypeAlias

from django.db.models import QuerySet

from mailapp.addresses import fold, split
from mailapp.models import UNDELIVERABLE, Conversation, Delivery
from mailapp.routing import START

from .letter import Letter
from .post import Post, post_in_use

#: Text that must occur, or a regular expression that must be found; None fits all.
Wanted: TypeAlias = str | re.Pattern[str] | None


class Person:
    """A person outside, known by an address.

    Each mail that comes is unread until it is expected, so that what is expected twice has
    to come twice.
    """

    def __init__(self, address: str, post: Post | None = None) -> None:
        """Without a `post`, mail goes within this process, or by the `OverSmtp` in use."""
        self.address = address
        self.post = post or post_in_use()
        self._read: set[int] = set()

    def __repr__(self) -> str:
        return f"<Person {self.address}>"

    def say(
        self,
        to: str | Sequence[str],
        body: str = "",
        *,
        subject: str = "",
        attach: Mapping[str, bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        sender: str | None = None,
    ) -> str:
        """Write a mail, let the program work it, and return the receiver's reply.

        `attach` maps file names to contents; `sender` is an envelope sender other than the
        person's address, such as "". Raise Refused when no recipient is accepted, and
        HandlerFailed when a handler raises an exception.
        """
        recipients = [to] if isinstance(to, str) else to
        mail = EmailMessage(SMTP if all(map(str.isascii, recipients)) else SMTPUTF8)
        fields = {
            "From": self.address,
            "To": ", ".join(recipients),
            "Subject": subject,
            "Date": localtime(),
            "Message-ID": make_msgid(domain=split(self.address)[1] or None),
            **(headers or {}),
        }
        for name, value in fields.items():
            mail[name] = value
        mail.set_content(body)
        for name, content in (attach or {}).items():
            maintype, _, subtype = _media_type(name).partition("/")
            mail.add_attachment(content, maintype=maintype, subtype=subtype, filename=name)
        return self.send(recipients, mail.as_bytes(), sender=sender)

    def send(self, to: str | Sequence[str], raw: bytes, *, sender: str | None = None) -> str:
        """Send these very bytes, for instance those of an `.eml`, as `say` does."""
        return self.post.send(
            self.address if sender is None else sender, [to] if isinstance(to, str) else to, raw
        )

    @property
    def mailbox(self) -> list[Letter]:
        """Every mail that came, the oldest first."""
        return [
            Letter(sent.sender, sent.raw, self)
            for sent in self.post.sent()
            if fold(sent.recipient) == fold(self.address)
        ]

    @property
    def unread(self) -> list[Letter]:
        """The mail that came and was not expected yet."""
        return [letter for at, letter in enumerate(self.mailbox) if at not in self._read]

    def read_all(self) -> None:
        """Leave nothing unread."""
        self._read = set(range(len(self.mailbox)))

    def expect(
        self,
        subject: Wanted = None,
        *,
        body: Wanted = None,
        author: Wanted = None,
        sender: Wanted = None,
    ) -> Letter:
        """Take the one unread mail that fits; raise AssertionError if there is none or more."""
        [letter] = self.expect_all(1, subject, body=body, author=author, sender=sender)
        return letter

    def expect_all(
        self,
        count: int,
        subject: Wanted = None,
        *,
        body: Wanted = None,
        author: Wanted = None,
        sender: Wanted = None,
    ) -> list[Letter]:
        """Take the unread mails that fit; raise AssertionError if they are not so many."""
        wanted = {"subject": subject, "body": body, "author": author, "sender": sender}
        mailbox = self.mailbox
        found = [
            at
            for at, letter in enumerate(mailbox)
            if at not in self._read and _fits(letter, wanted)
        ]
        if len(found) != count:
            raise AssertionError(self._report(f"{count} mail", wanted, len(found)))
        self._read.update(found)
        return [mailbox[at] for at in found]

    def expect_nothing(self) -> None:
        """Raise AssertionError if there is unread mail."""
        if unread := self.unread:
            raise AssertionError(self._report("no mail", {}, len(unread)))

    def _report(self, expected: str, wanted: Mapping[str, Wanted], found: int) -> str:
        criteria = ", ".join(
            f"{name} {getattr(value, 'pattern', value)!r}"
            for name, value in wanted.items()
            if value is not None
        )
        unread = [f"  unread: {letter}" for letter in self.unread] or ["  nothing is unread"]
        held = Delivery.objects.filter(queue=UNDELIVERABLE, person=fold(self.address))
        return "\n".join(
            [
                f"{self.address} expected {expected}{' with ' * bool(criteria)}{criteria},"
                f" found {found}:",
                *unread,
                *(f"  held: to {each.recipient}: {each.reply}" for each in held.order_by("id")),
            ]
        )

    @property
    def state(self) -> str:
        """The state of this person's conversation; START before the first.

        Raise AssertionError when there are several; then ask `state_with`.
        """
        found = list(self._conversations())
        if len(found) > 1:
            several = ", ".join(f"{each.handler} {each.key!r}: {each.state}" for each in found)
            raise AssertionError(f"{self.address} has several conversations: {several}")
        return found[0].state if found else START

    def state_with(self, module: ModuleType | str, key: str = "") -> str:
        """The state of the conversation with a handler module under `key`."""
        name = module if isinstance(module, str) else module.__name__
        conversation = self._conversations().filter(handler__module=name, key=key).first()
        return conversation.state if conversation else START

    def _conversations(self) -> QuerySet[Conversation]:
        return Conversation.objects.filter(person=fold(self.address)).select_related("handler")


def _fits(letter: Letter, wanted: Mapping[str, Wanted]) -> bool:
    values = {
        "subject": letter.subject,
        "body": letter.body(),
        "author": letter.author,
        "sender": letter.sender,
    }
    return all(_occurs(value, values[name]) for name, value in wanted.items())


def _occurs(wanted: Wanted, value: str) -> bool:
    if isinstance(wanted, re.Pattern):
        return wanted.search(value) is not None
    return wanted is None or wanted in value


def _media_type(name: str) -> str:
    guess, encoding = mimetypes.guess_type(name)
    return guess if guess and not encoding else "application/octet-stream"
