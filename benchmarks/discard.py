"""The peer: a plain aiosmtpd on asyncio's own loop that answers 250 and forgets the mail."""

from __future__ import annotations

import asyncio
import socket
import sys

from aiosmtpd.smtp import SMTP, Envelope, Session


class Discard:
    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        return "250 OK"


async def serve(line: socket.socket) -> None:
    """Say on `line` where we listen, then serve until its other end closes."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Discard(), hostname="localhost"), "127.0.0.1")
    host, port = server.sockets[0].getsockname()
    await loop.sock_sendall(line, f"{host}:{port}\n".encode())
    await loop.sock_recv(line, 1)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as line:
        line.setblocking(False)
        asyncio.run(serve(line))
