"""Watches what each worker has in hand, and has others stand in for those that are stuck in it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from django.db import Error, connection
from django.utils import timezone

from mailapp.children import Running
from mailapp.containment import is_over, slow_seconds
from mailapp.inhand import InHand
from mailapp.models import Delivery, Process
from mailapp.wakeup import notify

logger = logging.getLogger(__name__)

_LOOKS = 3  # at each worker while a handler becomes slow
_MOST_STAND_INS = 2  # for each worker: those who stand in may get stuck, too
_STAND_IN_SECONDS = 60.0  # that a stand-in stays when nobody is stuck any more


def seconds_between_looks() -> float:
    """How long a supervisor may leave its workers unwatched."""
    return slow_seconds() / _LOOKS


@dataclass(kw_only=True)
class Watched:
    """A child process, and if it is a worker, what it has in hand and who tends it."""

    running: Running | None = None
    in_hand: InHand | None = None  #: of a worker
    stands_in: bool = False  #: for a worker that is stuck; is not started again
    tending: threading.Thread | None = None
    overdue: bool = False  #: it was killed over its handler

    @property
    def is_stuck(self) -> bool:
        """True of a worker whose handler takes so long that nobody is to wait for it."""
        if self.running is None or self.in_hand is None:
            return False
        return self.in_hand.seconds > slow_seconds()

    @property
    def was_in_handler(self) -> bool:
        """True of a worker that ended while it ran a handler."""
        return self.in_hand is not None and self.in_hand.since > 0

    def tend(self) -> None:
        """Do for a worker that is stuck what it cannot do itself, beside all else.

        SQLite may have us wait, if it is stuck in the middle of a transaction.
        """
        if self.running and self.in_hand and not (self.tending and self.tending.is_alive()):
            what = (self.running.process.pid, self.in_hand)
            self.tending = threading.Thread(target=act_for, args=what, daemon=True)
            self.tending.start()

    def end_in_time(self) -> None:
        """Kill a worker whose handler has taken the clock for itself and runs on."""
        if self.running and self.in_hand and is_over(self.in_hand.seconds):
            self.overdue = True
            self.running.process.kill()


@dataclass
class StandIns:
    """Has as many others work as workers are stuck, and those not for long who are not."""

    add: Callable[[], None]  #: has one more start
    workers: int  #: how many are to run when nobody is stuck
    stuck_at: float = 0  #: when stand-ins were last needed (monotonic)

    def look_after(self, children: Sequence[Watched]) -> None:
        """Tend those who are stuck; add one who stands in, or ask one to end."""
        stuck = [child for child in children if child.is_stuck]
        for child in stuck:
            child.tend()
            child.end_in_time()
        stand_ins = [child for child in children if child.stands_in]
        if len(stuck) >= len(stand_ins):
            self.stuck_at = time.monotonic()
        if len(stand_ins) < min(len(stuck), _MOST_STAND_INS * self.workers):
            logger.warning("A worker is stuck in a handler; another stands in for it")
            self.add()
        elif stand_ins and time.monotonic() > self.stuck_at + _STAND_IN_SECONDS:
            self.stuck_at = time.monotonic()
            _ask_one_to_end(stand_ins)


def _ask_one_to_end(stand_ins: Sequence[Watched]) -> None:
    free = [child.running for child in stand_ins if child.running and not child.is_stuck]
    if free:
        free[0].process.terminate()


def act_for(pid: int, in_hand: InHand) -> None:
    """Say that a process lives, and give back what waits behind what it is stuck in.

    Unless it has gone on meanwhile: then it has given that back itself, and may have it again.
    """
    since, behind = in_hand.since, in_hand.behind
    it = Process.objects.unended_here().filter(pid=pid)
    try:
        it.update(heartbeat_at=timezone.now())
        waiting = list(Delivery.objects.claimed().filter(pk__in=behind, claimed_by__in=it))
        if in_hand.since != since or in_hand.seconds <= slow_seconds():
            return
        Delivery.objects.give_back(waiting)
        for queue in {delivery.queue_id for delivery in waiting}:
            notify(queue)
    except Error as error:
        logger.warning("What waits behind a stuck handler goes on waiting: %s", error)
    finally:
        connection.close()
