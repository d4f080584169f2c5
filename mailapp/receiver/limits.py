"""How many sessions there may be, and how long each may take.

One timer looks after all sessions, so that a busy one sets no timers and ten thousand idle
ones cost one pass a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import TYPE_CHECKING

from mailapp.conf import MailSettings

from . import replies
from .data import SharedMemory

if TYPE_CHECKING:
    from .protocol import Dialogue

_HOUR = 3600.0
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(texts: list[str]) -> tuple[Network, ...]:
    """Read networks as they stand in the settings."""
    return tuple(ipaddress.ip_network(text) for text in texts)


@lru_cache(maxsize=4096)
def is_in(peer: str, places: tuple[Network, ...]) -> bool:
    """Say whether an address is in one of these networks; a Unix socket (`""`) never is."""
    return bool(peer) and any(_address(peer) in place for place in places)


@lru_cache(maxsize=4096)
def origin(peer: str) -> str:
    """Return what counts as one address: IPv4 alone, IPv6 with its /64.

    >>> origin("2001:db8::1"), origin("::ffff:192.0.2.1")
    ('2001:db8::/64', '192.0.2.1')
    """
    address = _address(peer)
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _address(peer: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(peer.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped


class Sessions:
    """The sessions that are open on all ports of this process."""

    def __init__(self, settings: MailSettings) -> None:
        self.draining = False  #: True when the process is about to end
        self._settings = settings
        self._trusted = networks(settings.TRUSTED_NETWORKS)
        self._open: set[Dialogue] = set()
        self._of_origin: Counter[str] = Counter()
        self.failed_logins = FailedLogins(settings.LOGIN_TRIES_PER_HOUR)
        self.content_memory = SharedMemory()

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, dialogue: Dialogue) -> None:
        """Take a session in."""
        self._open.add(dialogue)

    def locate(self, dialogue: Dialogue, peer: str) -> bytes | None:
        """Count a session for the address it comes from; return the reply if it is too many."""
        if len(self._open) > self._settings.MAX_CONNECTIONS:
            return replies.TOO_MANY_CONNECTIONS
        if not peer or self.trusts(peer):
            return None
        dialogue.origin = origin(peer)
        self._of_origin[dialogue.origin] += 1
        if self._of_origin[dialogue.origin] > self._settings.MAX_CONNECTIONS_PER_ADDRESS:
            return replies.TOO_MANY_CONNECTIONS
        return None

    def leave(self, dialogue: Dialogue) -> None:
        """Let a session go; safe to repeat."""
        self._open.discard(dialogue)
        place, dialogue.origin = dialogue.origin, ""
        if place:
            self._of_origin[place] -= 1
            if not self._of_origin[place]:
                del self._of_origin[place]

    def trusts(self, peer: str) -> bool:
        """Say whether the limits for each address are not for this one."""
        return is_in(peer, self._trusted)

    async def watch(self) -> None:
        """Take leave of sessions that take too long, until cancelled."""
        loop = asyncio.get_running_loop()
        settings = self._settings
        shortest = min(settings.READ_TIMEOUT, settings.DATA_GRACE_SECONDS, settings.SESSION_SECONDS)
        while True:
            await asyncio.sleep(min(1.0, shortest / 4))
            now = loop.time()
            for dialogue in list(self._open):
                if reply := _overdue(dialogue, settings, now):
                    dialogue.wire.interrupt(reply)

    async def drain(self) -> None:
        """Let running transactions end, take leave of the others, and return when all left.

        After `DRAIN_SECONDS` what is left is cut off.
        """
        self.draining = True
        for dialogue in list(self._open):
            if dialogue.transaction is None:
                dialogue.wire.interrupt(replies.SHUTTING_DOWN)
        if tasks := {dialogue.task for dialogue in self._open}:
            await asyncio.wait(tasks, timeout=self._settings.DRAIN_SECONDS)
        for dialogue in list(self._open):
            dialogue.wire.transport.abort()


@contextlib.asynccontextmanager
async def watched_sessions(settings: MailSettings) -> AsyncIterator[Sessions]:
    """Yield the place for all sessions; at the end they are drained."""
    sessions = Sessions(settings)
    watch = asyncio.create_task(sessions.watch())
    try:
        yield sessions
    finally:
        await sessions.drain()
        watch.cancel()


def _overdue(dialogue: Dialogue, settings: MailSettings, now: float) -> bytes | None:
    """The reply that ends a session which takes too long; None for all others."""
    if now - dialogue.began > settings.SESSION_SECONDS:
        return replies.TOO_LONG
    if dialogue.content_began is None:
        return replies.TOO_SLOW if now - dialogue.turn_began > settings.READ_TIMEOUT else None
    if now - dialogue.wire.heard > settings.READ_TIMEOUT:
        return replies.TOO_SLOW
    taken = now - dialogue.content_began
    if taken > settings.DATA_GRACE_SECONDS:
        received = dialogue.wire.octets - dialogue.content_from
        if received < settings.MIN_DATA_RATE * taken:
            return replies.TOO_SLOW
    return None


class FailedLogins:
    """The failed logins of the last hour, by the address they came from.

    A try counts as failed from its beginning until it has succeeded, so that many at once are
    no way around the limit.
    """

    def __init__(self, limit: int, hour: float = _HOUR) -> None:
        self._limit = limit
        self._hour = hour
        self._times: OrderedDict[str, deque[float]] = OrderedDict()  # by the last of each

    def __len__(self) -> int:
        return len(self._times)

    def begin(self, peer: str) -> bool:
        """Count a try to log in; False when its address must wait."""
        place, now = origin(peer), time.monotonic()
        self._forget_before(now - self._hour)
        times = self._times.setdefault(place, deque())
        while times and times[0] < now - self._hour:
            times.popleft()
        if len(times) >= self._limit:
            return False
        times.append(now)
        self._times.move_to_end(place)
        return True

    def give_back(self, peer: str) -> None:
        """Take a try that succeeded for none."""
        place = origin(peer)
        if times := self._times.get(place):
            times.pop()
            if not times:
                del self._times[place]

    def _forget_before(self, oldest: float) -> None:
        while self._times and next(iter(self._times.values()))[-1] < oldest:
            self._times.popitem(last=False)
