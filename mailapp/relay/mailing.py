"""What is handed to a sender, and what comes back. No query, no network."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

from django.utils import timezone

from mailapp import signing
from mailapp.errors import MailError
from mailapp.models import Delivery, Message, Outcome, RawMessage, Status, Taken

from . import schedule
from .wire import Reply


@dataclass(eq=False)
class Mailing:
    """A message and those of its deliveries that were claimed together."""

    message: Message
    deliveries: list[Delivery]
    stored: RawMessage | None = None  #: loaded when it is its turn

    @property
    def sender(self) -> str:
        """The envelope sender that all of it is sent under."""
        return self.deliveries[0].return_path

    def read(self) -> bytes:
        """Return the bytes as its recipients get them: all the same, or it is but one."""
        assert self.stored is not None
        stored, list_address = self.stored.read(), self.message.list_address
        copy = self.deliveries[0].as_sent(stored)
        return signing.signed_copy(copy, stored, list_address) if list_address else copy

    def split(self, recipients: Container[str]) -> tuple[Mailing, Mailing]:
        """Part it in two: one to these recipients, and one to the others."""
        to_them = [each for each in self.deliveries if each.recipient in recipients]
        to_others = [each for each in self.deliveries if each.recipient not in recipients]
        return replace(self, deliveries=to_them), replace(self, deliveries=to_others)


@dataclass(eq=False)
class Sent:
    """What became of a mailing in one transaction with the smart host."""

    mailing: Mailing
    head: bytes = b""  #: the header section, for the report of a failure
    replies: dict[str, Reply] = field(default_factory=dict)  #: of recipients that got one
    trouble: MailError | None = None  #: with the smart host; why others got none
    error: str = ""  #: a traceback of our own; why others got none
    rest: Mailing | None = None  #: whom one transaction could not hold
    started_at: datetime = field(default_factory=timezone.now)
    ended_at: datetime = field(default_factory=timezone.now)

    def taken(self) -> Iterator[Taken]:
        """Yield what the smart host took."""
        for delivery in self.mailing.deliveries:
            reply = self.replies.get(delivery.recipient)
            if reply and reply.accepted and delivery.claimed_at:
                yield Taken(
                    delivery=delivery.pk,
                    claimed_at=delivery.claimed_at,
                    ended_at=self.ended_at,
                    reply=str(reply),
                )

    def outcomes(self) -> Iterator[tuple[Delivery, Outcome]]:
        """Yield how this try of each delivery ended."""
        for delivery in self.mailing.deliveries:
            yield delivery, self._outcome(delivery)

    def _outcome(self, delivery: Delivery) -> Outcome:
        reply = self.replies.get(delivery.recipient)
        status = self._status(delivery, reply)
        deferred = status == Status.DEFERRED
        return Outcome(
            status=status,
            reply=str(reply) if reply else (self.trouble or MailError).reply,
            error="" if reply else self.error or str(self.trouble),
            delay=schedule.delay(delivery, self.ended_at) if deferred else 0,
            started_at=self.started_at,
            ended_at=self.ended_at,
        )

    def _status(self, delivery: Delivery, reply: Reply | None) -> Status:
        if reply and reply.accepted:
            return Status.DONE
        if (reply and reply.permanent) or schedule.is_expired(delivery, self.ended_at):
            return Status.FAILED
        return Status.DEFERRED
