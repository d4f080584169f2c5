"""Servers that take whatever is sent and keep the bytes: a strict one, and a lax one.

They know of SMTP what a client needs, and differ in where they let content end.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.waiting import DEADLINE

STRICT = re.compile(rb"(?:\A|(?<=\r\n))\.\r\n")
# Any line end before the dot and after it, and a NUL is nothing. At a last CR, the LF may follow.
LAX = re.compile(rb"(?:\A|(?<=[\r\n])|(?<=[\r\n]\0))\0?\.\0?(?:\r\n|\n|\r(?!\Z))")

UNKNOWN = b"nobody"  #: recipients that begin so are refused
REFUSAL = b"550 5.1.1 Nobody \r.\r of that \0 name\r\n"


@dataclass
class Sink:
    """What came in."""

    end: re.Pattern[bytes]
    address: str = ""
    wire: list[bytearray] = field(default_factory=list)  #: each connection, octet for octet
    mails: list[tuple[bytes, bytes]] = field(default_factory=list)  #: recipient and content

    def serve(self, client: socket.socket) -> None:
        """Hold one session."""
        seen = bytearray()
        self.wire.append(seen)
        session = _Session(self, client)
        while more := client.recv(65536):
            seen += more
            session.feed(more)


class _Session:
    def __init__(self, sink: Sink, client: socket.socket) -> None:
        self._sink = sink
        self._say = client.sendall
        self._buffer = b""
        self._recipient = b""
        self._in_content = False
        self._say(b"220 sink.test\r\n")

    def feed(self, more: bytes) -> None:
        self._buffer += more
        while self._take_content() if self._in_content else self._take_command():
            pass

    def _take_content(self) -> bool:
        end = self._sink.end.search(self._buffer)
        if end is None:
            return False
        self._sink.mails.append((self._recipient, self._buffer[: end.start()]))
        self._buffer = self._buffer[end.end() :]
        self._in_content = False
        self._say(b"250 2.6.0 Taken\r\n")
        return True

    def _take_command(self) -> bool:
        command, line_end, rest = self._buffer.partition(b"\n")
        if not line_end:
            return False
        self._buffer = rest
        verb = command[:4].upper()
        if verb == b"RCPT":
            self._recipient = command.partition(b"<")[2].partition(b">")[0]
            known = not self._recipient.startswith(UNKNOWN)
            self._say(b"250 2.1.5 Ok\r\n" if known else REFUSAL)
        elif verb == b"DATA":
            refused = self._recipient.startswith(UNKNOWN)
            self._in_content = not refused
            self._say(b"503 5.5.1 No recipient\r\n" if refused else b"354 Go ahead\r\n")
        elif verb == b"EHLO":
            self._say(b"250-sink.test\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 PIPELINING\r\n")
        else:
            self._say(b"250 2.0.0 Ok\r\n")
        return True


@contextlib.contextmanager
def sink(end: re.Pattern[bytes]) -> Iterator[Sink]:
    """Serve until the block ends."""
    made = Sink(end)
    clients: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def hold(client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            made.serve(client)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                clients.append(client)
                threads.append(threading.Thread(target=hold, args=(client,)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        made.address = "127.0.0.1:{1}".format(*listener.getsockname())
        threads.append(threading.Thread(target=accept))
        threads[0].start()
        try:
            yield made
        finally:
            for each in (listener, *clients):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(DEADLINE)
