"""Who may connect, and for how long."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import TYPE_CHECKING

from . import replies

if TYPE_CHECKING:
    from .protocol import Dialogue

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def is_in(peer: str, networks: tuple[Network, ...]) -> bool:
    """Say whether an address is in one of these networks; a Unix socket (`""`) always is."""
    if not peer:
        return True
    address = ipaddress.ip_address(peer.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)


class Sessions:
    """The sessions that are open."""

    def __init__(self) -> None:
        self._open: set[Dialogue] = set()

    def add(self, dialogue: Dialogue) -> None:
        self._open.add(dialogue)

    def discard(self, dialogue: Dialogue) -> None:
        self._open.discard(dialogue)

    async def drain(self, seconds: float) -> None:
        """Let running transactions end, take leave of the others, and return when all left.

        After `seconds` what is left is cut off.
        """
        for dialogue in list(self._open):
            if dialogue.transaction is None:
                dialogue.wire.interrupt(replies.SHUTTING_DOWN)
        if tasks := {dialogue.task for dialogue in self._open}:
            await asyncio.wait(tasks, timeout=seconds)
        for dialogue in list(self._open):
            dialogue.wire.transport.abort()
