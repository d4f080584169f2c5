"""The status of a delivery, and how one try of it ended. No query."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db import models
from django.utils import timezone

from .claiming import Ending


class Status(models.TextChoices):
    QUEUED = "queued"
    CLAIMED = "claimed"
    DEFERRED = "deferred"
    DONE = "done"
    FAILED = "failed"
    HELD = "held"


#: Where a delivery is until a worker or the relay has ended it.
UNENDED = (Status.QUEUED, Status.CLAIMED, Status.DEFERRED)

#: Where a delivery stays unless an operator, or a bounce, moves it on.
FINAL = (Status.DONE, Status.FAILED, Status.HELD)

#: In which status an operator may do what. A claimed delivery belongs to its worker.
OPERATOR_MAY = {
    "retry": (Status.HELD, Status.FAILED, Status.DEFERRED),
    "hold": (Status.QUEUED, Status.DEFERRED),
    "release": (Status.HELD,),
    "discard": (Status.QUEUED, Status.DEFERRED, Status.HELD),
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one try of a claimed delivery ended; `Delivery.objects.settle` writes it."""

    status: Status
    reply: str = ""  #: the SMTP reply, or what to tell the operator in one line
    error: str = ""  #: a traceback, for the operator alone
    delay: float = 0  #: seconds until the next try, when deferred
    handler: int | None = None  #: id of the Handler that took it
    started_at: datetime = field(default_factory=timezone.now)
    ended_at: datetime = field(default_factory=timezone.now)

    def ending(self, now: datetime) -> Ending:
        """What the delivery's row becomes when it is settled now."""
        deferred = self.status == Status.DEFERRED
        due_at = now + timedelta(seconds=self.delay) if deferred else None
        return Ending(self.status, due_at, self.handler)


class Taken(NamedTuple):
    """What a process, since dead, knew of a try: it was sent; `settle_taken` writes it."""

    delivery: int
    claimed_at: datetime  #: tells the tries of a delivery apart
    ended_at: datetime
    reply: str
