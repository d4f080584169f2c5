"""TLS on the receiving side: who we are, and what was agreed."""

from __future__ import annotations

import asyncio
import ssl
from typing import cast


def server_context(certificate: str, key: str) -> ssl.SSLContext:
    """Return a context for TLS 1.2 or later with this certificate chain and key (PEM files)."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key or None)
    return context


async def begin(
    transport: asyncio.Transport,
    protocol: asyncio.Protocol,
    context: ssl.SSLContext,
    *,
    heard: bytes,
    patience: float,
) -> asyncio.Transport | None:
    """Shake hands with a client; return the transport for what is said under TLS.

    `heard` is what has come in of its first words. None when the connection is lost meanwhile,
    of which `protocol` may not be told. Raise OSError when the handshake fails, or takes longer
    than `patience` seconds.
    """
    if transport.is_closing():
        return None
    loop = asyncio.get_running_loop()
    transport.pause_reading()  # what comes in from here on is not for `protocol`
    handshake = loop.create_task(
        loop.start_tls(
            transport, protocol, context, server_side=True, ssl_handshake_timeout=patience
        )
    )
    await asyncio.sleep(0)  # now the transport has another protocol,
    await asyncio.sleep(0)  # and this one has been told of its transport
    _hand_over(heard, cast(asyncio.BufferedProtocol, transport.get_protocol()))
    protected = await handshake
    return None if protected is None or protected.is_closing() else protected


def _hand_over(heard: bytes, protocol: asyncio.BufferedProtocol) -> None:
    while heard:
        place = cast(memoryview, protocol.get_buffer(len(heard)))
        count = min(len(place), len(heard))
        place[:count] = heard[:count]
        protocol.buffer_updated(count)
        heard = heard[count:]


def facts(transport: asyncio.BaseTransport) -> str:
    """Say what protects a connection: `TLSv1.3 TLS_AES_256_GCM_SHA384`; "" when nothing does."""
    session = transport.get_extra_info("ssl_object")
    return f"{session.version()} {session.cipher()[0]}" if session is not None else ""
