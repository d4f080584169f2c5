"""Who is behind a proxy that speaks the PROXY protocol, version 1 or 2."""

from __future__ import annotations

import io
import ipaddress
import logging

from aiosmtpd.proxy_protocol import V2_CMD, V2_SIGNATURE, get_proxy

from .wire import HungUp, Wire

logger = logging.getLogger(__name__)


async def client_behind(peer: str, wire: Wire) -> str:
    """Read the header that a trusted proxy sends first; return the address of its client.

    The proxy's own address is returned for its own checks, which name no client; "" for a client
    that has no IP address. Raise HungUp when there is no such header, or Farewell.
    """
    header = await get_proxy(_Reader(await _header(wire)))
    if not header.valid:
        logger.warning("No PROXY header from %s: %r", peer, header.error)
        raise HungUp
    own = header.version == 2 and header.command == V2_CMD.LOCAL
    if own or header.src_addr is None:
        return peer
    if isinstance(header.src_addr, ipaddress.IPv4Address | ipaddress.IPv6Address):
        return str(header.src_addr)
    return ""


async def _header(wire: Wire) -> bytes:
    """Wait for a whole header, of which nothing is known but how long it is.

    It is read before aiosmtpd looks at it, since that takes a Farewell for a broken header.
    """
    start = await wire.exactly(5)
    if start == V2_SIGNATURE[:5]:
        start += await wire.exactly(11)
        return start + await wire.exactly(int.from_bytes(start[14:]))
    return start + await wire.line() if start == b"PROXY" else start


class _Reader:
    """A header as aiosmtpd wants to read it."""

    def __init__(self, header: bytes) -> None:
        self._header = io.BytesIO(header)

    async def read(self, n: int = -1) -> bytes:
        return self._header.read(n)

    async def readexactly(self, n: int) -> bytes:
        return self._header.read(n)

    async def readuntil(self, separator: bytes = b"\n") -> bytes:
        return self._header.read()
