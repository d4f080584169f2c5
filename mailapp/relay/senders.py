"""Threads that send, each with a session of its own. They never touch the database."""

from __future__ import annotations

import logging
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic

from django.utils import timezone

from mailapp import mime
from mailapp.errors import NoUpstream

from .connection import ConnectionBroken
from .journal import Journal
from .mailing import Mailing, Sent
from .session import Session

logger = logging.getLogger(__name__)


class Senders:
    """A few threads that take mailings in order and keep what became of them.

    What the smart host took is in the journal before it can be collected. When one meets trouble
    with the smart host all halt, until mailings are given anew.
    """

    def __init__(
        self,
        number: int,
        session: Callable[[], Session],
        journal: Journal,
        *,
        enough: int,
        idle: float,
        wake: Callable[[], None],
    ) -> None:
        """Close a session that is `idle` for so long; `wake` whoever is to collect.

        So many transactions are `enough` to be settled together.
        """
        self._session = session
        self._journal = journal
        self._number_enough = enough
        self._idle = idle
        self._wake = wake
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._enough = threading.Condition(self._lock)
        self._waiting: deque[Mailing] = deque()
        self._sending: set[Mailing] = set()
        self._sent: list[Sent] = []
        self._halted = False
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._run, name=f"sender-{index + 1}", daemon=True)
            for index in range(number)
        ]
        for thread in self._threads:
            thread.start()

    def give(self, mailings: Iterable[Mailing]) -> None:
        """Have mailings sent, after those that wait already."""
        with self._changed:
            self._waiting.extend(mailings)
            self._halted = False
            self._changed.notify(len(self._waiting))

    def take_back(self) -> list[Mailing]:
        """Return the mailings that no thread has begun; they are no longer ours."""
        with self._changed:
            untried = list(self._waiting)
            self._waiting.clear()
            return untried

    def collect(self) -> list[Sent]:
        """Return what was sent since the last call; the journal has turned over that page."""
        with self._changed:
            self._journal.turn()
            sent, self._sent = self._sent, []
            return sent

    @property
    def in_hand(self) -> list[Mailing]:
        """Mailings that wait, are being sent, or were sent and not collected."""
        with self._changed:
            sent = [each.mailing for each in self._sent]
            return [*self._waiting, *self._sending, *sent]

    def wait_for_more(self, seconds: float) -> None:
        """Return when there is enough to be settled, or nothing to wait for, or after `seconds`."""
        with self._changed:
            self._enough.wait_for(self._has_enough, seconds)

    def stop(self) -> None:
        """Let each thread finish the transaction that it is in and end; do not wait for it."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def join(self, seconds: float) -> None:
        """Wait at most so long for the threads to end, and close the journal.

        What one sends later, nobody is told.
        """
        end = monotonic() + seconds
        for thread in self._threads:
            thread.join(max(end - monotonic(), 0))
        with self._changed:
            self._journal.close()
        self._wake = lambda: None

    def _run(self) -> None:
        session = self._session()
        while not self._stopping:
            mailing = self._take()
            if mailing is None:
                session.close()
            else:
                self._report(mailing, _send(session, mailing))
        session.close()

    def _take(self) -> Mailing | None:
        """Wait for a mailing; return None when there was none for a while, or never will be."""
        with self._changed:
            self._changed.wait_for(self._may_go_on, self._idle)
            if self._stopping or not self._may_begin():
                return None
            mailing = self._waiting.popleft()
            self._sending.add(mailing)
            return mailing

    def _may_go_on(self) -> bool:
        return self._stopping or self._may_begin()

    def _may_begin(self) -> bool:
        return bool(self._waiting) and not self._halted

    def _report(self, mailing: Mailing, sent: Sent) -> None:
        with self._changed:
            self._journal.note(sent)
            self._sending.discard(mailing)
            self._sent.append(sent)
            if sent.rest:
                self._waiting.appendleft(sent.rest)
            self._halted = self._halted or sent.trouble is not None
            first = len(self._sent) == 1
            if self._has_enough():
                self._enough.notify_all()
        if first:
            self._wake()

    def _has_enough(self) -> bool:
        nothing_comes = not self._sending and (self._halted or not self._waiting)
        return nothing_comes or len(self._sent) >= self._number_enough


def _send(session: Session, mailing: Mailing) -> Sent:
    sent = Sent(mailing)
    try:
        raw = mailing.read()
        sent.head = mime.head(raw)
        recipients = [delivery.recipient for delivery in mailing.deliveries]
        sent.replies = session.send(mailing.sender, recipients, raw)
        if not sent.replies.keys() >= set(recipients):
            sent.mailing, sent.rest = mailing.split(sent.replies)
    except (NoUpstream, ConnectionBroken) as trouble:
        sent.trouble = trouble
    except Exception:
        logger.exception("Message %d could not be sent", mailing.message.pk)
        sent.error = traceback.format_exc()
    sent.ended_at = timezone.now()
    return sent
