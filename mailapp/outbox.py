"""Outgoing mail is a row. It is sent by the relay, after the commit of who wrote it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Protocol

from django.db import DEFAULT_DB_ALIAS, connection, connections

from mailapp import signing, wakeup
from mailapp.addresses import fold, whole
from mailapp.errors import BadAddress, NoSuchQueue
from mailapp.models import OUTGOING, Answer, Delivery, Message, NewMail, Queue


class _Posted:
    """A mail or a delivery of a handler, and whether the transaction it is of was committed.

    Django calls it on the commit, and forgets it when the transaction, or a savepoint that it was
    posted in, is rolled back.
    """

    def __init__(self, what: NewMail | Delivery) -> None:
        self.what = what
        self.is_committed = False
        default = connections[DEFAULT_DB_ALIAS]  # to look for it takes a microsecond
        if default.in_atomic_block:
            default.on_commit(self)
        else:
            self()

    def __call__(self) -> None:
        self.is_committed = True


class Question(Protocol):
    """The mail that a handler is given."""

    @property
    def sender(self) -> str:
        """Who wrote it; "" is the null sender."""

    handler: int | None  #: id of the Handler whose function runs


class Collected:
    """The mail of one run of a handler, until it is stored with the state.

    What the handler itself rolls back, by an `atomic()` of its own, is not among it.
    """

    def __init__(self, cause: int | None = None, question: Question | None = None) -> None:
        self.cause = cause  #: id of the Delivery that the handler works on
        self.question = question
        self._posted: list[_Posted] = []

    def keep(self, what: NewMail | Delivery) -> None:
        """Keep it as long as the current transaction, or savepoint, is not rolled back."""
        self._posted.append(_Posted(what))

    def add(self, other: Collected) -> None:
        self._posted += other._posted

    @property
    def mails(self) -> list[NewMail]:
        return [what for what in self._standing() if isinstance(what, NewMail)]

    @property
    def deliveries(self) -> list[Delivery]:
        return [what for what in self._standing() if isinstance(what, Delivery)]

    def _standing(self) -> Iterator[NewMail | Delivery]:
        hooks: list[Any] = connection.run_on_commit  # of which the stubs know another form
        waiting = {id(hook) for _, hook, _ in hooks}
        for posted in self._posted:
            if posted.is_committed or id(posted) in waiting:
                yield posted.what


_collected: ContextVar[Collected | None] = ContextVar("collected", default=None)


def post(
    raw: bytes,
    *,
    sender: str,
    recipients: Sequence[str],
    cause: int | None = None,
    sign: bool = True,
    verp: bool = False,
    even_suppressed: bool = False,
    list_address: str = "",
    answer_of: int | None = None,
) -> None:
    """Put one mail into the outbox, in the caller's transaction: a Delivery each recipient.

    Within a handler it is stored together with the state that the handler returns. It is signed,
    if MAIL["DKIM"] has keys for its author; without `sign`, which is for what others wrote, the
    bytes stay.

    With `verp` each delivery is sent under a return path of its own, at the host of `sender`, so
    that a bounce tells which one came back. Deliveries to suppressed addresses fail without a
    try, unless this mail goes `even_suppressed`. With `list_address` each copy has a link by
    which its recipient leaves that list, so it goes with VERP. With `answer_of`, the id of the
    Handler that answers its recipient with it, it is held if that has done so too often of late.

    Raise BadAddress for an address that cannot be written into an SMTP command, KeyUnusable for
    a mail that is to be signed and cannot be.
    """
    if not recipients:
        return
    collected = _collected.get()
    mail = NewMail(
        raw=signing.signed(raw) if sign else raw,
        sender=_checked(sender) if sender else "",
        recipients=list(dict.fromkeys(map(_checked, recipients))),
        queue=OUTGOING,
        cause=collected.cause if collected else cause,
        verp=verp or bool(list_address),
        even_suppressed=even_suppressed,
        list_address=list_address,
        answer_of=answer_of,
    )
    if collected is None:
        _store([mail], [])
    else:
        collected.keep(mail)


def _checked(address: str) -> str:
    """Return an address as the grammar of SMTP has it (RFC 5321 4.1.2); raise BadAddress."""
    checked = whole(address)
    if "@" not in checked:  # no other server knows our postmaster by this
        raise BadAddress(repr(address))
    return checked


def answering(recipients: Sequence[str]) -> int | None:
    """Return the id of the Handler at work if it answers with mail to these, else None.

    That is mail to nobody but who wrote to it.
    """
    collected = _collected.get()
    question = collected.question if collected else None
    if question is None or [fold(each) for each in recipients] != [fold(question.sender)]:
        return None
    return question.handler


def pass_on(delivery: Delivery, queue: str) -> None:
    """Give the message of `delivery` a second delivery, in `queue`, for other workers.

    Raise NoSuchQueue; within a handler, when what it caused is stored.
    """
    again = Delivery(
        message_id=delivery.message_id,
        queue_id=queue,
        recipient=delivery.recipient,
        person=delivery.person,
    )
    collected = _collected.get()
    if collected is None:
        _store([], [again])
    else:
        collected.keep(again)


def store(collected: Collected) -> None:
    """Store what a handler posted, in the current transaction."""
    _store(collected.mails, collected.deliveries)


def _store(mails: Sequence[NewMail], deliveries: Sequence[Delivery]) -> None:
    if mails:
        keys = Message.objects.store(mails)
        _hold_answers_beyond_limits(dict(zip(keys, mails, strict=True)))
    if deliveries:
        _pass_on(deliveries)


def _pass_on(deliveries: Sequence[Delivery]) -> None:
    names = {each.queue_id for each in deliveries}
    unknown = names - set(Queue.objects.filter(name__in=names).values_list("name", flat=True))
    if unknown:
        raise NoSuchQueue(", ".join(sorted(unknown)))
    Delivery.objects.bulk_create(deliveries)
    for queue in names:
        wakeup.notify(queue)


def _hold_answers_beyond_limits(stored: Mapping[int, NewMail]) -> None:
    """Have an operator decide on answers of which a handler has sent a person too many of late."""
    answers = {
        key: (mail.answer_of, fold(mail.recipients[0]))
        for key, mail in stored.items()
        if mail.answer_of is not None
    }
    too_many = Answer.objects.note(answers) if answers else {}
    for reason in set(too_many.values()):
        held = [key for key, why in too_many.items() if why == reason]
        Delivery.objects.filter(message__in=held).hold(reason)


@contextlib.contextmanager
def collecting(cause: int | None = None, question: Question | None = None) -> Iterator[Collected]:
    """Keep what is posted in this block, for `store`.

    `cause` is the id of the Delivery that the handler works on, if any, and `question` its mail.
    """
    collected = Collected(cause, question)
    token = _collected.set(collected)
    try:
        yield collected
    finally:
        _collected.reset(token)
