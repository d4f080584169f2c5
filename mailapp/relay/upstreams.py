"""Which of the smart hosts mail goes to: the first that is well. No query."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from mailapp.endpoints import Upstream
from mailapp.errors import MailError, NoUpstream

from .schedule import Rest
from .wire import Reply

logger = logging.getLogger(__name__)


class Connection(Protocol):
    """What mail can be sent over, one transaction after the other."""

    def transact(self, sender: str, recipients: Sequence[str], raw: bytes) -> dict[str, Reply]:
        """Send one mail and return the reply for each recipient.

        Raise ConnectionBroken when the connection does not last until then.
        """

    def is_fit(self) -> bool:
        """Say whether another transaction can begin."""

    def close(self) -> None:
        """Take leave."""

    def abandon(self) -> None:
        """Drop the connection without a word."""


class Upstreams:
    """Smart hosts, the first choice first, of which those in trouble are left alone for a while.

    Threads share it.
    """

    def __init__(
        self, doors: Mapping[Upstream, Callable[[], Connection]], steps: Sequence[float]
    ) -> None:
        """A door opens a connection, or raises NoUpstream; `steps` are the seconds of rest."""
        self._doors = doors
        self._rests = {upstream: Rest(steps) for upstream in doors}
        self._lock = threading.Lock()

    def connect(self) -> tuple[Upstream, Connection]:
        """Connect to the first that lets us in; raise NoUpstream when none does."""
        rested = [each for each in self._doors if not self._rests[each].remaining]
        troubles = []
        for upstream in rested or self._doors:
            trying = self._try_alone(upstream)
            try:
                connection = self._doors[upstream]()
            except NoUpstream as trouble:
                self.leave_alone(upstream, trouble, resting=trying)
                troubles.append(trouble)
            else:
                self._rests[upstream].interrupt()
                return upstream, connection
        raise troubles[-1]

    def _try_alone(self, upstream: Upstream) -> bool:
        """Keep other threads from waiting, too, for one that may still be in trouble."""
        with self._lock:
            rest = self._rests[upstream]
            alone = rest.was_needed and not rest.remaining
            if alone:
                rest.begin()
            return alone

    def leave_alone(self, upstream: Upstream, trouble: MailError, *, resting: bool = False) -> None:
        """Send nothing there for a while; with `resting` that has begun."""
        with self._lock:
            rest = self._rests[upstream]
            if not rest.remaining:
                rest.begin()
                resting = True
            if resting:
                logger.warning("%s; left alone for %.3g seconds", trouble, rest.remaining)

    def note_well(self, upstream: Upstream) -> None:
        """It has answered: it needs no rest."""
        self._rests[upstream].end()

    def is_choice(self, upstream: Upstream) -> bool:
        """Say whether none before it is to be tried."""
        for each, rest in self._rests.items():
            if each == upstream:
                break
            if not rest.remaining:
                return False
        return True

    @property
    def remaining(self) -> float:
        """Seconds until one may be tried; 0 when one may be now."""
        return min(rest.remaining for rest in self._rests.values())
