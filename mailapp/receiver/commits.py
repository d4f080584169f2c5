"""The receiver's side of storing: mails go to the storer, which stores together what it finds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from django.utils import timezone

from mailapp.errors import DidNotStart
from mailapp.models import NewMail

from .line import ReceiversLine
from .storer import Failure, Result, Work, merged

logger = logging.getLogger(__name__)

_MAILS_IN_HAND = 200
_OCTETS_IN_HAND = 8 * 1024 * 1024
_RESTART_SECONDS = 0.5


class NotStored(Exception):
    """A mail was not stored; the log tells why under `number`."""

    def __init__(self, number: str) -> None:
        super().__init__(number)
        self.number = number


class Hired(NamedTuple):
    """A storer that was started."""

    line: socket.socket  #: our end
    wait: Callable[[], object]  #: returns when it has ended
    kill: Callable[[], object]  #: ends it in the middle of whatever it does


class Commits:
    """Has mails stored; those that come while others are being stored share the next commit.

    The storer is handed each mail at once, so that it need not wait for the next ones when it
    has stored some. What it has in hand is limited; the rest waits here. All waits, too, while
    the outcome of a mail is open for which nobody waits any more: it may be sent again, and must
    have been noted by then.

    A session that goes away while its mail is being stored changes nothing: the mail is stored
    whole or not at all. A storer that dies is replaced.
    """

    def __init__(self, hire: Callable[[], Hired]) -> None:
        """`hire` starts a storer."""
        self._hire = hire
        self._waiting: dict[_Pending, None] = {}  # in order, and each is easily taken out
        self._in_hand: deque[_InHand] = deque()
        self._left: set[_Pending] = set()  # in hand, but their sessions have gone on
        self._unheard: list[int] = []
        self._unheard_since: datetime | None = None
        self._line: ReceiversLine | None = None
        self._called = False
        self._stuck_since: float | None = None
        self._replacing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the storer and return when it is ready. Raise DidNotStart."""
        self._loop = asyncio.get_running_loop()
        self._idle = asyncio.Event()
        await self._start_storer()

    async def stop(self, patience: float) -> None:
        """Have stored what waits, within `patience` seconds, and return when the storer ended."""
        self._call()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), patience)
        if self._replacing is not None:
            self._replacing.cancel()
        if self._line is not None:
            self._line.lost.remove_done_callback(self._replace_storer)
            self._line.close()
            killing = self._loop.call_later(patience, self._hired.kill)
            await self._ended
            killing.cancel()

    @property
    def seconds_stuck(self) -> float:
        """How long nothing has been stored although something waits for it."""
        return 0 if self._stuck_since is None else self._loop.time() - self._stuck_since

    async def store(self, mail: NewMail, patience: float) -> int | None:
        """Return the key of a mail when it is committed; None if it was stored before.

        Raise NotStored, or TimeoutError after `patience` seconds: then it may still be stored,
        and counts as unheard.
        """
        pending = _Pending(mail, self._loop.create_future())
        alarm = self._loop.call_later(patience, pending.give_up)
        self._waiting[pending] = None
        self._call()
        try:
            return await pending.key
        finally:
            alarm.cancel()
            if not pending.settled:
                self._leave(pending)

    def _leave(self, pending: _Pending) -> None:
        """Take a mail back that nobody waits for, or see to it that it is noted if it is stored."""
        if pending in self._waiting:
            del self._waiting[pending]
        else:
            self._left.add(pending)

    def unheard(self, key: int) -> None:
        """Have it noted, before anything that comes later is stored, that a 250 was not heard."""
        self._unheard.append(key)
        self._call()

    def _call(self) -> None:
        """Hand work over once all sessions that can go on by now have gone on."""
        self._idle.clear()
        if self._stuck_since is None:
            self._stuck_since = self._loop.time()
        if not self._called:
            self._called = True
            self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        self._called = False
        if self._line is None or self._left:
            return
        group = self._take()
        work = Work([each.mail for each in group], self._unheard, self._unheard_since)
        if any(work):
            self._unheard, self._unheard_since = [], None
            self._in_hand.append(_InHand(group, work, timezone.now()))
            self._line.send(work.plain())
        elif not self._in_hand:
            self._idle.set()
            self._stuck_since = None

    def _take(self) -> list[_Pending]:
        """Take the mails that wait, as many as the storer may have in hand."""
        mails = sum(len(each.group) for each in self._in_hand)
        octets = sum(each.octets for each in self._in_hand)
        group: list[_Pending] = []
        for pending in self._waiting:
            if mails >= _MAILS_IN_HAND or octets >= _OCTETS_IN_HAND:
                break
            group.append(pending)
            mails += 1
            octets += len(pending.mail.raw)
        for pending in group:
            del self._waiting[pending]
        return group

    def _take_results(self, results: Sequence[Sequence[Result]]) -> None:
        for some in results:
            self._settle(self._in_hand.popleft(), some)
        self._stuck_since = None
        self._call()

    def _settle(self, done: _InHand, results: Sequence[Result]) -> None:
        for pending, result in zip(done.group, results, strict=True):
            self._left.discard(pending)
            if not pending.answer(result) and isinstance(result, int):
                self._unheard.append(result)

    async def _start_storer(self) -> None:
        self._hired = self._hire()
        self._ended = self._loop.run_in_executor(None, self._hired.wait)
        _, line = await self._loop.create_unix_connection(
            lambda: ReceiversLine(self._take_results), sock=self._hired.line
        )
        try:
            await line.ready
        except BaseException:
            line.close()
            raise
        self._line = line
        line.lost.add_done_callback(self._replace_storer)
        self._call()

    def _replace_storer(self, lost: object) -> None:
        """Give up what the storer had in hand when it died: it is stored whole, or not at all."""
        number = secrets.token_hex(6)
        logger.error("Error %s: the storer has died and is started again", number)
        self._line = None
        if self._in_hand:
            work = merged([each.work for each in self._in_hand])
            self._unheard = [*work.unheard, *self._unheard]
            self._unheard_since = work.unheard_since or self._in_hand[0].began
        for each in self._in_hand:
            for pending in each.group:
                pending.answer(Failure(number))
        self._in_hand.clear()
        self._left.clear()
        self._replacing = self._loop.create_task(self._replace())

    async def _replace(self) -> None:
        while self._line is None:
            try:
                await self._start_storer()
            except DidNotStart:
                await asyncio.sleep(_RESTART_SECONDS)


class _Pending:
    """A mail that waits to be stored, and the session that waits for it."""

    __slots__ = ("key", "mail", "settled")

    def __init__(self, mail: NewMail, key: asyncio.Future[int | None]) -> None:
        self.mail = mail
        self.key = key
        self.settled = False

    def answer(self, result: Result) -> bool:
        """Tell the session; say whether it still waited."""
        self.settled = True
        if self.key.done():
            return False
        if isinstance(result, Failure):
            self.key.set_exception(NotStored(result.number))
        else:
            self.key.set_result(result)
        return True

    def give_up(self) -> None:
        """Tell the session that it took too long."""
        if not self.key.done():
            self.key.set_exception(TimeoutError("the database is too slow"))


class _InHand(NamedTuple):
    """What the storer was handed at once."""

    group: list[_Pending]
    work: Work
    began: datetime

    @property
    def octets(self) -> int:
        return sum(len(mail.raw) for mail in self.work.mails)
