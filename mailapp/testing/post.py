"""The way of mail in a test: from a person to the receiver, to the handlers, and back."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.conf import settings
from django.db.models import F, Max, Min, QuerySet
from django.test import override_settings
from django.utils import timezone

from mailapp import worker
from mailapp.addresses import take_path
from mailapp.errors import BadAddress, MailError
from mailapp.lifecycle import Life
from mailapp.models import (
    OUTGOING,
    Answer,
    Attempt,
    Delivery,
    Message,
    NewMail,
    Process,
    Queue,
    Status,
    Timer,
)
from mailapp.receiver import replies
from mailapp.receiver.recipients import Recipients
from mailapp.registry import current_router


def outbox_settings() -> dict[str, Any]:
    """The settings by which `django.core.mail` writes to the outbox.

    Django's test runner sends that mail elsewhere.
    """
    backend = "mailapp.backends.OutboxBackend"
    if hasattr(settings, "MAILERS"):  # Django 6.1
        return {"MAILERS": {**settings.MAILERS, "default": {"BACKEND": backend}}}
    return {"EMAIL_BACKEND": backend}


class Refused(MailError):
    """The receiver refused the mail."""

    def __init__(self, reply: str) -> None:
        super().__init__(reply, reply=reply)


class HandlerFailed(MailError):
    """A handler raised an exception."""


class Sent(NamedTuple):
    """A mail that the program sent to one recipient."""

    sender: str
    recipient: str
    raw: bytes


class Post(ABC):
    """Carries mail to the program, lets it work, and shows what it sent."""

    def send(self, sender: str, recipients: Sequence[str], raw: bytes) -> str:
        """Hand a mail to the receiver, work all that is due, and return the receiver's reply.

        Raise Refused, or HandlerFailed with the traceback.
        """
        before = Attempt.objects.aggregate(last=Max("id", default=0))
        reply = self.hand_in(sender, recipients, raw)
        self.work()
        _raise_failure(Attempt.objects.filter(id__gt=before["last"]))
        return reply

    @abstractmethod
    def hand_in(self, sender: str, recipients: Sequence[str], raw: bytes) -> str:
        """Give a mail to the receiver and return its reply; raise Refused."""

    @abstractmethod
    def sent(self) -> list[Sent]:
        """Every mail that the program sent, in order."""

    @abstractmethod
    def forget(self, count: int) -> None:
        """Drop so many of the mails that the program sent, the oldest first."""

    def work(self) -> None:
        """Let the handlers work until nothing is due."""
        queues = Queue.objects.filter(purpose=Queue.Purpose.HANDLERS)
        with override_settings(**outbox_settings()):
            while sum(_drain(queue.name) for queue in queues):
                pass

    def later(
        self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0
    ) -> None:
        """Let time pass: timers and retries that come due meanwhile are worked, in order.

        What waits for a moment is moved towards now, and the answers that a limit counts are moved
        away; the clock stays. Raise HandlerFailed.
        """
        left = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        while left > timedelta(0):
            now = timezone.now()
            step = min([left, *(moment - now for moment in _moments_after(now))])
            for waiting in (_deferred(), Timer.objects.all()):
                waiting.update(due_at=F("due_at") - step)
            Answer.objects.update(at=F("at") - step)
            self._work_again()
            left -= step

    def _work_again(self) -> None:
        before = Attempt.objects.aggregate(last=Max("id", default=0))
        tries = dict(Timer.objects.values_list("pk", "tries"))
        self.work()
        _raise_failure(Attempt.objects.filter(id__gt=before["last"]))
        for timer in Timer.objects.exclude(error=""):
            if timer.tries > tries.get(timer.pk, 0):
                raise HandlerFailed(f"{timer}: {timer.reply}\n{timer.error}")

    def let_retries_run_out(self) -> None:
        """Try again what failed, without the waits, until it is done or held.

        A handler's ERROR has its say after the last try.
        """
        while sum(failed.update(due_at=timezone.now()) for failed in (_deferred(), _failed())):
            self.work()


def _deferred() -> QuerySet[Delivery]:
    return Delivery.objects.filter(status=Status.DEFERRED, queue__purpose=Queue.Purpose.HANDLERS)


def _failed() -> QuerySet[Timer]:
    return Timer.objects.filter(tries__gt=0, due_at__isnull=False)


def _moments_after(now: datetime) -> Iterator[datetime]:
    """When the next retry and the next timer come due."""
    for waiting in (_deferred(), Timer.objects.all()):
        coming = waiting.filter(due_at__gt=now)
        if moment := coming.aggregate(at=Min("due_at"))["at"]:
            yield moment


def _raise_failure(attempts: QuerySet[Attempt]) -> None:
    """Raise HandlerFailed unless who deferred a mail did so by an SMTPError, on purpose."""
    deferred = attempts.filter(
        outcome=Status.DEFERRED, delivery__queue__purpose=Queue.Purpose.HANDLERS
    )
    for attempt in deferred.select_related("delivery"):
        if not attempt.reply.startswith("4"):
            raise HandlerFailed(f"{attempt.delivery}: {attempt.reply}\n{attempt.error}")


def _drain(queue: str) -> int:
    life = Life(Process.objects.start(Process.Kind.WORKER, queue))
    try:
        return worker.drain(queue, life)
    finally:
        life.process.stop()


class InProcess(Post):
    """Without a network: the receiver's rules, the real worker, the real database.

    Fits a test that is one transaction (`TestCase`, the fixture `db`).
    """

    def hand_in(self, sender: str, recipients: Sequence[str], raw: bytes) -> str:
        sender = _sender(sender)
        known = Recipients(lambda: current_router(max_age=0))
        refusals = {recipient: _refusal(known, recipient) for recipient in recipients}
        accepted = [recipient for recipient, refusal in refusals.items() if not refusal]
        if not accepted:
            raise Refused(next(iter(refusals.values())))
        mail = NewMail(raw=raw, sender=sender, recipients=accepted, protocol="ESMTP")
        Message.objects.store([mail])
        return replies.STORED.decode()

    def sent(self) -> list[Sent]:
        return [
            Sent(each.return_path, each.recipient, each.as_sent(each.message.raw))
            for each in _outgoing().select_related("message__raw_message")
        ]

    def forget(self, count: int) -> None:
        oldest = list(_outgoing().values_list("pk", flat=True)[:count])
        Delivery.objects.filter(pk__in=oldest).delete()


def _outgoing() -> QuerySet[Delivery]:
    return Delivery.objects.filter(queue=OUTGOING).exclude(status=Status.HELD).order_by("id")


def _sender(address: str) -> str:
    """Return a sender in the form in which the receiver stores it; raise Refused."""
    try:
        return take_path(f"<{address}>")[0]
    except BadAddress:
        raise Refused(replies.BAD_SENDER.decode()) from None


def _refusal(known: Recipients, recipient: str) -> str:
    try:
        address, _ = take_path(f"<{recipient}>")
    except BadAddress as error:
        return error.reply
    return (known.refusal(address) or b"").decode()


_in_use: list[Post] = []


def post_in_use() -> Post:
    """The way that mail takes where none is named: that of the innermost `with in_use(post)`."""
    return _in_use[-1] if _in_use else InProcess()


@contextlib.contextmanager
def in_use(post: Post) -> Iterator[None]:
    """Have mail go this way within the block where no other is named."""
    _in_use.append(post)
    try:
        yield
    finally:
        _in_use.remove(post)
