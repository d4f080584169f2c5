"""What functions of a handler are given, and how they write: MailRequest, ConversationRequest."""

from __future__ import annotations

import email.message
import re
from collections.abc import Mapping, Sequence
from email.utils import format_datetime
from functools import cached_property
from itertools import pairwise
from typing import Any

from django.utils import timezone

from mailapp import automatic, bounces, composing, identity, mime, outbox, people, returnpath
from mailapp.addresses import fold, split
from mailapp.conf import mail_settings
from mailapp.errors import NothingToAnswer, SMTPError
from mailapp.models import Conversation, Delivery
from mailapp.rendering import Rendered, render

_HELO = re.compile(r"[A-Za-z0-9._-]+|\[[A-Za-z0-9.:]+\]")


def _received_by(hostname: str) -> re.Pattern[str]:
    """What `MailRequest._received` writes."""
    by = re.escape(hostname)
    return re.compile(rf"(?:from \S+ \(\S+\) )?by {by}(?: with \S+)? id \d+; .+", re.IGNORECASE)


class MailRequest:
    """One mail for one recipient. Parsed when first asked; the bytes are never changed."""

    def __init__(self, delivery: Delivery, *, raw: bytes | None = None) -> None:
        self.delivery = delivery
        self.handler: int | None = None  #: id of the Handler whose function is given this
        self.conversation: Conversation | None = None  #: set for functions that have a state
        self.note = ""  #: what a handler tells the operator; shown with the delivery
        if raw is not None:
            self.raw = raw

    def __repr__(self) -> str:
        return f"<MailRequest {self.sender or '<>'} -> {self.recipient}>"

    # The envelope

    @property
    def sender(self) -> str:
        """The envelope sender as it was given; "" is the null sender (RFC 5321 4.5.5)."""
        return self.delivery.message.sender

    @property
    def recipient(self) -> str:
        """The one envelope recipient that this is about."""
        return self.delivery.recipient

    @cached_property
    def identity(self) -> identity.Identity | None:
        """Who wrote this, as far as we know; None for the null sender."""
        return identity.of_sender(self.sender)

    @property
    def data(self) -> dict[str, Any]:
        """What the handler keeps of the conversation, as JSON; stored with its state."""
        assert self.conversation is not None, "a stateless function has no conversation"
        return self.conversation.data

    # The content

    @cached_property
    def raw(self) -> bytes:
        """The bytes as they came in."""
        return self.delivery.message.raw

    @cached_property
    def parsed(self) -> email.message.Message:
        """The mail as the standard library sees it."""
        return mime.parse(self.raw)

    @cached_property
    def _head(self) -> email.message.Message:
        return mime.parse_head(self.raw)

    @cached_property
    def headers(self) -> list[tuple[str, str]]:
        """All header fields in order, decoded, each on one line."""
        return mime.headers(self._head)

    def header(self, name: str) -> str:
        """The first header field of that name, decoded, on one line; "" without one."""
        return mime.header(self._head, name)

    @property
    def subject(self) -> str:
        return self.header("Subject")

    @property
    def author(self) -> str:
        """The address in From (RFC 5598), which anybody can forge; "" unless it is one alone."""
        return self.authors[0] if len(self.authors) == 1 else ""

    @cached_property
    def authors(self) -> list[str]:
        """The address of each mailbox in From, of which there should be one; "" is unreadable."""
        return people.authors(self._head)

    def body(self) -> str:
        """The first plain text part, or the text of the HTML part where that is blank, or ""."""
        return mime.body_of(self.parsed)

    def html(self) -> str:
        """The first HTML part, as it came; "" without one."""
        return mime.text_of(self.parsed, "html")

    def reply_text(self) -> str:
        """What the author wrote anew: the body without quotations and signature."""
        return mime.reply_text(self.body())

    @property
    def attachments(self) -> list[mime.Attachment]:
        """The parts that are not the text."""
        return mime.attachments(self.parsed)

    @cached_property
    def is_bounce(self) -> bool:
        """True for mail from the null sender and for delivery reports."""
        return not self.sender or (mime.may_be_report(self.raw) and mime.is_report(self._head))

    @cached_property
    def bounce(self) -> bounces.Bounce | None:
        """What a delivery report says; None when this is none that can be read."""
        return bounces.read(self.parsed) if self.is_bounce else None

    @property
    def is_automatic(self) -> bool:
        """True when a machine sent this, so that no answer is due (RFC 3834 section 2)."""
        return bool(self._why_automatic)

    @cached_property
    def _why_automatic(self) -> str:
        if not self.sender:
            return "the null sender"
        if automatic.is_of_machine(self.sender):
            return f"from {self.sender}"
        if automatic.is_of_machine(self.recipient):
            return f"to {self.recipient}"
        return automatic.why_no_answer(self._head)

    # What a handler may do

    def respond(
        self,
        template: str,
        *,
        author: str | None = None,
        reply_to: str | None = None,
        headers: Mapping[str, str] | None = None,
        even_suppressed: bool = False,
        even_to_automatic: bool = False,
        **context: Any,
    ) -> None:
        """Answer the envelope sender with a rendered mail template.

        Written by `author` (an address, or `Name <address>` with any name), by default the
        recipient of this mail. Nothing is sent, and the operator is told so, when this mail is
        automatic, since machines that answer machines never stop (RFC 3834); unless the answer
        is to go `even_to_automatic`. The null sender is never answered. To a suppressed address
        it goes only when it is to go `even_suppressed`. Beyond MAIL["ANSWERS_AN_HOUR"] to one
        person from one handler it is held.
        """
        if self.is_automatic and not (even_to_automatic and self.sender):
            self._tell(f"Not answered, for a machine sent it: {self._why_automatic}")
            return
        _post(
            render(template, {"message": self, **context}),
            author=author or self.recipient,
            to=self.sender,
            reply_to=reply_to,
            subject=f"Re: {self.subject.removeprefix('Re: ')}",
            headers=self._thread() | _safe(headers or {}),
            cause=self.delivery.pk,
            even_suppressed=even_suppressed,
            answer_of=self.handler,
        )

    def _tell(self, fact: str) -> None:
        """Add to what the operator is told, once."""
        if fact not in self.note:
            self.note = f"{self.note}; {fact}".removeprefix("; ")

    def _thread(self) -> dict[str, str]:
        """The header fields that make a mail an answer to this one (RFC 5322 3.6.4)."""
        answered = mime.message_ids(self.header("Message-ID"))
        if not answered:
            return {}
        before = mime.message_ids(self.header("References"))
        references = [*before[:1], *before[1:][-8:], answered[0]]
        return {"In-Reply-To": answered[0], "References": " ".join(references)}

    def forward(
        self,
        to: str | Sequence[str],
        *,
        sender: str | None = None,
        srs: bool = False,
        verp: bool = False,
        list_address: str = "",
        raw: bytes | None = None,
        sign: bool = False,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Send the bytes as they came, below trace fields of ours and `headers`, to `to`.

        Raise SMTPError (550 5.4.6) for a mail that has been forwarded from this recipient before:
        it goes in a circle.

        One stored message however many recipients. The envelope sender stays, unless
        `sender` names another (`""` for the null sender). With `srs` one at the host of this
        mail's recipient stands for it, from which bounces go on to it. `verp` and
        `list_address` are as in `outbox.post`; `raw` are bytes to send instead, and `sign` says
        that we answer for them.
        """
        if self._has_been_here():
            raise SMTPError(550, "The mail goes in a circle", "5.4.6")
        if sender is None:
            sender = self._rewritten_sender() if srs else self.sender
        trace = [("Delivered-To", self.recipient), self._received()]
        outbox.post(
            composing.with_fields([*trace, *headers], self.raw if raw is None else raw),
            sender=sender,
            recipients=[to] if isinstance(to, str) else to,
            cause=self.delivery.pk,
            sign=sign,
            verp=verp,
            list_address=list_address,
        )

    def _rewritten_sender(self) -> str:
        """The sender as one of our hosts may use it; what is ours or nobody's stays."""
        if not self.sender or split(self.sender)[1] in mail_settings().HOSTS:
            return self.sender
        return returnpath.of_sender(self.sender, split(self.recipient)[1])

    def _has_been_here(self) -> bool:
        """Say whether we forwarded this from its recipient before: it has our Delivered-To.

        Another mail system that hands mail on to us may write the same; ours stands on our
        Received.
        """
        if b"\ndelivered-to:" not in b"\n" + mime.head(self.raw).lower():
            return False
        here = fold(mime.one_line(self.recipient))
        ours = _received_by(mail_settings().hostname)
        return any(
            (name.lower(), fold(value), below.lower()) == ("delivered-to", here, "received")
            and ours.fullmatch(trace)
            for (name, value), (below, trace) in pairwise(self.headers)
        )

    def _received(self) -> tuple[str, str]:
        """The trace field of RFC 5321 4.4 for the way that this mail took to us."""
        mail = self.delivery.message
        source = ""
        if mail.peer:
            helo = mail.helo if _HELO.fullmatch(mail.helo) else "unknown"
            peer = f"IPv6:{mail.peer}" if ":" in mail.peer else mail.peer
            source = f"from {helo} ([{peer}]) "
        protocol = f" with {mail.protocol}" if mail.protocol else ""
        when = format_datetime(mail.created_at)
        return "Received", f"{source}by {mail_settings().hostname}{protocol} id {mail.pk}; {when}"

    def to_queue(self, name: str) -> None:
        """Put this mail into another queue too, for other workers, with the handler's state.

        Functions marked with `@from_queue(name)` take it there. Raise NoSuchQueue.
        """
        outbox.pass_on(self.delivery, name)


class ConversationRequest:
    """A conversation that has been in its state for so long: what a timer's function is given."""

    def __init__(self, row: Conversation) -> None:
        self.row = row

    def __repr__(self) -> str:
        return f"<ConversationRequest {self.row}>"

    @property
    def person(self) -> str:
        """Who it is with: an address in lower case."""
        return self.row.person

    @property
    def key(self) -> str:
        """What `@state_key_generator` returned for it; "" without one."""
        return self.row.key

    @property
    def state(self) -> str:
        return self.row.state

    @property
    def data(self) -> dict[str, Any]:
        """What the handler keeps of it, as JSON; stored with its state."""
        return self.row.data

    @cached_property
    def message(self) -> MailRequest | None:
        """The last mail that a state function of it took; None when that is kept no longer."""
        moves = self.row.transitions.filter(delivery__isnull=False)
        last = moves.select_related("delivery__message").last()
        if last is None or last.delivery is None:
            return None
        request = MailRequest(last.delivery)
        request.handler = self.row.handler_id
        request.conversation = self.row
        return request

    def respond(
        self,
        template: str,
        *,
        author: str | None = None,
        reply_to: str | None = None,
        headers: Mapping[str, str] | None = None,
        even_suppressed: bool = False,
        even_to_automatic: bool = False,
        **context: Any,
    ) -> None:
        """Answer the last mail once more, as `message.respond` does.

        When it is kept no longer, write to the person all the same; raise NothingToAnswer if
        there is no `author` then.
        """
        context = {"conversation": self, **context}
        if self.message:
            self.message.respond(
                template,
                author=author,
                reply_to=reply_to,
                headers=headers,
                even_suppressed=even_suppressed,
                even_to_automatic=even_to_automatic,
                **context,
            )
            return
        if author is None:
            raise NothingToAnswer(str(self.row))
        _post(
            render(template, {"message": None, **context}),
            author=author,
            to=self.person,
            reply_to=reply_to,
            headers=_safe(headers or {}),
            even_suppressed=even_suppressed,
            answer_of=self.row.handler_id,
        )


def _post(
    parts: Rendered,
    *,
    author: str,
    to: str,
    reply_to: str | None,
    subject: str = "",
    headers: Mapping[str, str],
    cause: int | None = None,
    even_suppressed: bool,
    answer_of: int | None,
) -> None:
    """Put a rendered mail into the outbox; `subject` is for a template that has none."""
    name, address = _name_and_address(author)
    fields = {
        "Subject": parts.subject or subject,
        "From": composing.named(name, address),
        "To": composing.named("", to),
        **({"Reply-To": composing.named(*_name_and_address(reply_to))} if reply_to else {}),
        "Message-ID": composing.new_message_id(mail_settings().hostname),
        "Date": format_datetime(timezone.now()),
        "Auto-Submitted": "auto-replied",
    }
    outbox.post(
        composing.compose(_with(headers, fields), parts.text, parts.html),
        sender=address,
        recipients=[to],
        cause=cause,
        even_suppressed=even_suppressed,
        answer_of=answer_of,
    )


def _name_and_address(mailbox: str) -> tuple[str, str]:
    """Part `Name <address>`, whatever characters a stranger chose for the name."""
    text = mime.one_line(mailbox)
    if not text.endswith(">"):
        return "", text
    name, _, address = text[:-1].rpartition("<")
    return name.strip(' "'), address


def _with(headers: Mapping[str, str], fields: Mapping[str, str]) -> dict[str, str]:
    """Return these fields, those of `headers` in the place of ours, whatever case they are in."""
    theirs = {name.lower() for name in headers}
    ours = {name: value for name, value in fields.items() if name.lower() not in theirs}
    return {**ours, **headers}


def _safe(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: mime.one_line(value) for name, value in headers.items()}
