"""TLS on the receiving side: who we are, and what was agreed."""

from __future__ import annotations

import asyncio
import ssl


def server_context(certificate: str, key: str) -> ssl.SSLContext:
    """Return a context for TLS 1.2 or later with this certificate chain and key (PEM files)."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key or None)
    return context


def facts(transport: asyncio.BaseTransport) -> str:
    """Say what protects a connection: `TLSv1.3 TLS_AES_256_GCM_SHA384`; "" when nothing does."""
    session = transport.get_extra_info("ssl_object")
    return f"{session.version()} {session.cipher()[0]}" if session is not None else ""
