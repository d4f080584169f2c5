"""Who is behind a proxy that speaks the PROXY protocol, version 1 or 2."""

from __future__ import annotations

import logging

from aiosmtpd.proxy_protocol import V2_CMD, get_proxy

from .wire import HungUp, Wire

logger = logging.getLogger(__name__)


async def client_behind(peer: str, wire: Wire) -> str:
    """Read the header that a trusted proxy sends first; return the address of its client.

    The proxy's own address is returned for its own checks, which name no client. Raise HungUp
    when there is no such header.
    """
    header = await get_proxy(_Reader(wire))
    if not header.valid:
        logger.warning("No PROXY header from %s: %r", peer, header.error)
        raise HungUp
    own = header.version == 2 and header.command == V2_CMD.LOCAL
    return peer if own or header.src_addr is None else str(header.src_addr)


class _Reader:
    """The wire as aiosmtpd wants to read it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def read(self, n: int = -1) -> bytes:
        return await self._wire.exactly(n)

    async def readexactly(self, n: int) -> bytes:
        return await self._wire.exactly(n)

    async def readuntil(self, separator: bytes = b"\n") -> bytes:
        return await self._wire.line()
