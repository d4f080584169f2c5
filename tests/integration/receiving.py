"""A receiver on a port of its own in this process, and a client that sends exact bytes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, BinaryIO

from mailapp.conf import MailSettings
from mailapp.endpoints import Endpoint
from mailapp.models import NewMail
from mailapp.receiver import replies
from mailapp.receiver.limits import watched_sessions
from mailapp.receiver.listener import Destination, Kept, Listener, whole_content
from mailapp.receiver.protocol import Dialogue
from mailapp.receiver.recipients import Recipients
from mailapp.receiver.server import event_loop, listening
from mailapp.routing import Router, read_module
from tests.integration import receiving_handlers
from tests.waiting import DEADLINE, wait_until

HOSTS = ["example.com", "example.net"]


def router() -> Router:
    """A router that takes every address at our hosts but `nobody@…`."""
    handler = read_module(receiving_handlers)
    assert handler is not None
    return Router([handler], hosts=HOSTS)


def our_settings(**settings: Any) -> MailSettings:
    """The settings of a receiver under test, with these changes."""
    return MailSettings(**{"HOSTS": HOSTS, "RUN_DIR": tempfile.gettempdir(), **settings})


class Shelf:
    """A destination that keeps the mails of one listener in a list."""

    def __init__(self) -> None:
        self.mails: list[NewMail] = []
        self._recipients = Recipients(router)

    def closed(self) -> bytes | None:
        return None

    def unavailable(self) -> bytes | None:
        return None

    async def refusal(self, recipient: str) -> bytes | None:
        return self._recipients.refusal(recipient)

    async def store(self, mail: NewMail, spool: BinaryIO | None) -> Kept:
        self.mails.append(mail._replace(raw=whole_content(mail, spool)))
        return Kept(replies.STORED)

    def unheard(self, key: int) -> None:
        raise AssertionError("a Shelf gives no keys")


@contextlib.asynccontextmanager
async def opened(destination: Destination) -> AsyncIterator[Destination]:
    """Wrap a destination that needs no opening."""
    yield destination


class Receiver:
    """A listener that serves, in a thread with an event loop of its own."""

    def __init__(
        self,
        destination: AbstractAsyncContextManager[Destination],
        settings: MailSettings,
        place: str,
        **options: object,
    ) -> None:
        self._place = place
        self._destination = destination
        self._settings = settings
        self._listener = options.pop("listener", Listener)
        self._options = options
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(DEADLINE), "the receiver did not start"

    def _run(self) -> None:
        with event_loop() as runner:
            self._loop = runner.get_loop()
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        async with (
            self._destination as destination,
            watched_sessions(self._settings) as sessions,
        ):
            self.listener = self._listener(self._settings, destination, sessions, **self._options)
            async with listening(self.listener, self._place) as place:
                self.port = place if place.startswith("/") else Endpoint.parse(place).port
                self._ready.set()
                await self._stopping.wait()

    def ask_to_stop(self) -> None:
        """Do what SIGTERM does."""
        self._loop.call_soon_threadsafe(self._stopping.set)

    def send_in(self, client: Client, pieces: Sequence[bytes]) -> None:
        """Send pieces, each once the one before has come in, so that none are joined.

        What is sent when the dialogue has ended, or given way to TLS, is not waited for.
        """
        port = client.socket.getsockname()[1]
        dialogue = wait_until(lambda: self._dialogue(port))
        due, end = dialogue.wire.octets, time.monotonic() + DEADLINE
        for piece in pieces:
            client.send(piece)
            due += len(piece)
            while dialogue.wire.octets < due and self._listens(dialogue):
                assert time.monotonic() < end, f"{piece!r} did not come in"
                time.sleep(0)

    def _dialogue(self, port: int) -> Dialogue | None:
        for dialogue in list(self.listener.sessions._open):
            if dialogue.wire.transport.get_extra_info("peername")[1] == port:
                return dialogue
        return None

    def _listens(self, dialogue: Dialogue) -> bool:
        return (
            dialogue in self.listener.sessions._open
            and dialogue.wire.transport.get_protocol() is dialogue
        )

    def stop(self) -> None:
        """Drain and end; safe to repeat."""
        if self._thread.is_alive():
            self.ask_to_stop()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), "the receiver did not end"

    def connect(self) -> Client:
        """Connect, without reading the greeting."""
        return Client(self.port)

    def greeted(self, hello: bytes = b"EHLO client.test") -> Client:
        """Connect and say hello."""
        client = self.connect()
        client.read_reply()
        client.ask(hello)
        return client


@contextlib.contextmanager
def receiving(
    destination: AbstractAsyncContextManager[Destination] | Destination | None = None,
    *,
    settings: MailSettings | None = None,
    place: str = "127.0.0.1:0",
    **options: object,
) -> Iterator[Receiver]:
    """Run a receiver within the body; without a destination it keeps mail on a Shelf."""
    if not isinstance(destination, AbstractAsyncContextManager):
        destination = opened(destination or Shelf())
    receiver = Receiver(destination, settings or our_settings(), place, **options)
    try:
        yield receiver
    finally:
        receiver.stop()


class Client:
    """A connection on which a test says exactly what it wants."""

    def __init__(self, port: int | str) -> None:
        if isinstance(port, str):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(DEADLINE)
            self.socket.connect(port)
        else:
            self.socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._bytes = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def ask(self, line: bytes) -> bytes:
        """Send a line and return the reply to it."""
        self.send(line + b"\r\n")
        return self.read_reply()

    def read_reply(self) -> bytes:
        """Return the next reply, its lines joined; b"" when the connection ended."""
        lines = []
        while True:
            line = self._read_line()
            lines.append(line)
            if line[3:4] != b"-":
                return b"\r\n".join(lines)

    def read_replies(self) -> list[bytes]:
        """Return all replies until the receiver ends the connection."""
        return list(iter(self.read_reply, b""))

    def is_closed(self) -> bool:
        """True when the receiver ended the connection, with no further reply."""
        return self.read_reply() == b""

    def _read_line(self) -> bytes:
        while b"\r\n" not in self._bytes:
            try:
                more = self.socket.recv(65536)
            except ConnectionError:
                more = b""
            if not more:
                assert not self._bytes, f"half a reply: {self._bytes!r}"
                return b""
            self._bytes += more
        line, _, self._bytes = self._bytes.partition(b"\r\n")
        return line

    def half_close(self) -> None:
        """Say that we will send no more."""
        self.socket.shutdown(socket.SHUT_WR)


Mail = Callable[..., bytes]


def mail_transaction(
    content: bytes = b"Subject: Hello\r\n\r\nHello.\r\n",
    *,
    sender: bytes = b"reader@client.test",
    recipient: bytes = b"you@example.com",
) -> list[bytes]:
    """The lines of one transaction; content is dotted as a client must."""
    dotted = b"\r\n".join(
        b"." + line if line.startswith(b".") else line for line in content.split(b"\r\n")
    )
    return [b"MAIL FROM:<%b>" % sender, b"RCPT TO:<%b>" % recipient, b"DATA", dotted + b"."]


def deliver(
    client: Client, content: bytes = b"Subject: Hello\r\n\r\nHello.\r\n", **envelope: bytes
) -> bytes:
    """Run one transaction on a client that was greeted; return the last reply."""
    reply = b""
    for line in mail_transaction(content, **envelope):
        reply = client.ask(line)
        if reply[:1] not in b"23":
            break
    return reply
