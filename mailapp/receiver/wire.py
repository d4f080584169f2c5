"""One connection as bytes: lines and pieces that came in, replies that go out."""

from __future__ import annotations

import asyncio
import contextlib

from . import replies
from .replies import Farewell

LINGER_SECONDS = 2.0
HIGH_WATER = 65536  # octets that may wait unread before the client has to
LONGEST_LINE = 16384  # far above any command; who sends more without an end is no client


class HungUp(Exception):
    """The client will send no more."""


class Wire:
    """Both directions of one connection; a single task reads it and speaks."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.heard = loop.time()  #: when the client last sent something
        self.octets = 0  #: how much it sent
        self._loop = loop
        self._bytes = b""
        self._used = 0
        self._unsent: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._reading_paused = False
        self._writing_paused = False
        self.hung_up = False  #: True when the client will send no more
        self._leaving = False
        self._cut_off: asyncio.TimerHandle | None = None

    # What the transport reports.

    def feed(self, data: bytes) -> None:
        """Take what came in."""
        self.heard = self._loop.time()
        self.octets += len(data)
        self._bytes = self._bytes[self._used :] + data
        self._used = 0
        if self._waits() and not self._writing_paused:
            self._wake()
        elif len(self._bytes) > HIGH_WATER and not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()

    def hang_up(self) -> None:
        """Take it that no more will come."""
        self.hung_up = True
        self._wake()

    def lost(self) -> None:
        """Take it that the connection is no more."""
        if self._cut_off is not None:
            self._cut_off.cancel()
        self.hang_up()

    def pause_writing(self) -> None:
        """Take it that the client does not read what we say."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """Take it that the client reads again."""
        self._writing_paused = False
        self._wake()

    # What the task does.

    @property
    def waiting(self) -> int:
        """How many octets are here and not used."""
        return len(self._bytes) - self._used

    @property
    def first(self) -> int:
        """The next octet; only when something waits."""
        return self._bytes[self._used]

    @property
    def broke_off(self) -> bool:
        """True when the client ended within a line; only after `next_line` found none."""
        return self.hung_up and self.waiting > 0 and not self._writing_paused

    def drop(self) -> None:
        """Forget what is here and not used."""
        self._bytes, self._used = b"", 0

    def give_back(self, rest: bytes) -> None:
        """Put back what was taken by `piece` but belongs to whoever reads next."""
        self._bytes, self._used = rest + self._bytes[self._used :], 0

    async def hears_within(self, seconds: float) -> bool:
        """Wait so long for the client to speak first; say whether it did."""
        timer = self._loop.call_later(seconds, self._wake)
        try:
            await self.more()
        finally:
            timer.cancel()
        return self.waiting > 0

    def next_line(self) -> bytes | None:
        """Take the next line with its LF if it is here; raise Farewell when it has no end."""
        start = self._used
        end = self._bytes.find(b"\n", start) + 1
        if (end or len(self._bytes)) - start > LONGEST_LINE:
            raise Farewell(replies.ENDLESS_LINE)
        if not end or self._writing_paused:  # no more commands while the answers are not read
            return None
        self._used = end
        return self._bytes[start:end]

    async def line(self) -> bytes:
        """Wait for the next line; raise Farewell when it has no end, or HungUp."""
        while (line := self.next_line()) is None:
            await self.more()
        return line

    async def piece(self) -> bytes:
        """Return whatever is here, at least one octet; raise HungUp."""
        while not self.waiting:
            await self.more()
        piece = self._bytes[self._used :] if self._used else self._bytes
        self.drop()
        return piece

    async def exactly(self, count: int) -> bytes:
        """Return the next `count` octets; raise HungUp."""
        while self.waiting < count:
            await self.more()
        start, self._used = self._used, self._used + count
        return self._bytes[start : self._used]

    async def more(self) -> None:
        """Wait until the client did something; raise HungUp when it ended."""
        if self.hung_up:
            raise HungUp
        self.flush()
        if self._reading_paused and not self._writing_paused:
            self._reading_paused = False
            self.transport.resume_reading()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def interrupt(self, reply: bytes) -> None:
        """End the wait for the client with a Farewell; nothing happens when nobody waits."""
        if self._waiter is not None and not self._waiter.done() and not self._leaving:
            self._waiter.set_exception(Farewell(reply))

    def say(self, *lines: bytes) -> None:
        """Send with the next flush, so that the replies to pipelined commands share a segment."""
        self._unsent += lines

    def flush(self) -> None:
        """Send what was said."""
        if self._unsent and not self.transport.is_closing():
            self._unsent.append(b"")
            self.transport.write(b"\r\n".join(self._unsent))
        self._unsent.clear()

    def close(self) -> None:
        """Send what was said, and end, even if the client does not read it."""
        self.flush()
        self.transport.close()
        self._cut_off_soon()

    async def take_leave(self, reply: bytes) -> None:
        """Say a last word and end, so that a client that is still sending gets to hear it.

        Closing a socket on which something waits unread resets the connection, and what was
        said is lost with it.
        """
        self._leaving = True
        self.say(reply)
        self.flush()
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()
            self._cut_off_soon()
            with contextlib.suppress(HungUp):
                while True:
                    self.drop()
                    await self.more()
        self.close()

    def _cut_off_soon(self) -> None:
        if self._cut_off is None:
            self._cut_off = self._loop.call_later(LINGER_SECONDS, self.transport.abort)

    def _waits(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
