"""Many clients at once, which do the same thing at the same time, or nothing."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator, Sequence

from benchmarks.harness import BrokenBenchmark

_COMING_AT_ONCE = 500  # fewer than may wait for the receiver to accept them
_TIMEOUT = 120
_PIECE = (b"x" * 78 + b"\r\n") * 1250  # 100 kB


@contextlib.contextmanager
def crowd(address: str, count: int) -> Iterator[Sequence[socket.socket]]:
    """Keep so many sessions open within the block; each has said EHLO."""
    _allow_many_files()
    with contextlib.ExitStack() as stack:
        clients: list[socket.socket] = []
        while len(clients) < count:
            numbers = range(min(count - len(clients), _COMING_AT_ONCE))
            coming = [stack.enter_context(_connection(address)) for _ in numbers]
            ask(coming, b"", b"220")
            ask(coming, b"EHLO client.test\r\n", b"250")
            clients += coming
        yield clients


def send_at_once(address: str, count: int, octets: int) -> None:
    """Send large mails, of which none has its end before all are there but for their ends."""
    with crowd(address, count) as clients:
        begin_mail(clients, "reader@client.test", "note@localhost")
        for _ in range(octets // len(_PIECE)):
            for each in clients:
                each.sendall(_PIECE)
        ask(clients, b".\r\n", b"250")


def begin_mail(clients: Sequence[socket.socket], sender: str, recipient: str) -> None:
    """Have each client say all that comes before the content."""
    ask(clients, f"MAIL FROM:<{sender}>\r\n".encode(), b"250")
    ask(clients, f"RCPT TO:<{recipient}>\r\n".encode(), b"250")
    ask(clients, b"DATA\r\n", b"354")


def _allow_many_files() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _connection(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), _TIMEOUT)


def ask(clients: Sequence[socket.socket], command: bytes, wanted: bytes) -> None:
    """Have each client say the same; raise BrokenBenchmark unless each reply begins as wanted."""
    for each in clients:
        each.sendall(command)
    for each in clients:
        reply = each.recv(4096)
        if not reply.startswith(wanted):
            raise BrokenBenchmark(f"{command!r} was answered {reply!r}")
