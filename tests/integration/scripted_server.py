"""An SMTP or LMTP server over a real socket whose every reply a test can choose."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.waiting import DEADLINE

OFFERS = "250-mx.test\r\n250-SIZE 1000000\r\n250-8BITMIME\r\n250-AUTH PLAIN LOGIN\r\n250 STARTTLS"
REPLIES = {
    "banner": "220 mx.test ESMTP",
    "EHLO": OFFERS,
    "LHLO": OFFERS,
    "HELO": "250 mx.test",
    "STARTTLS": "220 Go ahead",
    "AUTH": "235 Authenticated",
    "MAIL": "250 Sender ok",
    "RCPT": "250 Recipient ok",
    "DATA": "354 Go ahead",
    ".": "250 Taken",
    "QUIT": "221 Bye",
}
_LARGEST = 2**24  # octets of a message
DROP = "drop"  # closes the connection instead of replying
SILENCE = "silence"  # says nothing
HOLD = "hold"  # replies as usual, but only when the test says `go_on`
ENDLESS = "endless"  # goes on with the reply as long as anybody listens
DRIBBLE = "dribble"  # the same, an octet at a time, each in time
CUT = "cut"  # after DATA: closes the connection in the middle of the message
STALL = "stall"  # after DATA: reads no more in the middle of the message

Script = Mapping[str, "str | list[str]"]


@dataclass
class ScriptedServer:
    """What a test reads after a session: where it was, what it heard."""

    address: str
    commands: list[str] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    go_on: threading.Event = field(default_factory=threading.Event)

    @property
    def verbs(self) -> list[str]:
        return [command.split()[0].upper() for command in self.commands]


class _Session:
    def __init__(
        self,
        server: ScriptedServer,
        script: dict[str, list[str]],
        tls: ssl.SSLContext | None,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.server = server
        self.script = script
        self.tls = tls
        self.reader, self.writer = streams
        self.lmtp = False
        self.accepted = 0

    async def hold(self) -> None:
        reply = await self.answer("banner")
        while reply != DROP and (line := await self.reader.readline()):
            command = line.decode().removesuffix("\r\n")
            self.server.commands.append(command)
            verb = command.split()[0].upper()
            reply = await self.answer(verb if verb in self.script else "AUTH")
            if verb == "QUIT":
                return
            if verb == "LHLO":
                self.lmtp = True
            elif verb == "RCPT" and reply.startswith("2"):
                self.accepted += 1
            elif verb == "STARTTLS" and reply.startswith("2") and self.tls:
                await self.writer.start_tls(self.tls)
            elif reply in {CUT, STALL}:
                self.writer.write(b"354 Go ahead\r\n")
                await self.reader.readline()
                if reply == CUT:
                    return
                self.writer.transport.pause_reading()
                await asyncio.to_thread(self.server.go_on.wait, DEADLINE)
            elif reply.startswith("354"):
                self.server.messages.append(await self.message())
                for _ in range(self.accepted if self.lmtp else 1):
                    reply = await self.answer(".")
                    if reply == DROP:
                        return
                self.accepted = 0

    async def answer(self, verb: str) -> str:
        replies = self.script[verb]
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if reply == HOLD:
            await asyncio.to_thread(self.server.go_on.wait, DEADLINE)
            reply = REPLIES[verb]
        while reply in {ENDLESS, DRIBBLE}:
            self.writer.write(b"250-More\r\n" * 1000 if reply == ENDLESS else b"2")
            await self.writer.drain()
            await asyncio.sleep(0 if reply == ENDLESS else 0.01)
        if reply not in {DROP, SILENCE, CUT, STALL}:
            self.writer.write(reply.encode() + b"\r\n")
            await self.writer.drain()
        return reply

    async def message(self) -> bytes:
        content = await self.reader.readuntil(b"\r\n.\r\n")
        return content.removesuffix(b".\r\n")


@contextmanager
def scripted_server(
    script: Script | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    implicit_tls: bool = False,
    path: Path | None = None,
) -> Iterator[ScriptedServer]:
    """Serve until the block ends; a list of replies is given one by one, its last for good."""
    replies = {
        verb: list(reply) if isinstance(reply, list) else [reply]
        for verb, reply in {**REPLIES, **(script or {})}.items()
    }
    server = ScriptedServer(str(path) if path else "")
    started = threading.Event()
    loop: asyncio.AbstractEventLoop
    stop: asyncio.Event

    async def serve() -> None:
        nonlocal stop, loop
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        sessions: set[asyncio.Task[None]] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            sessions.add(task)
            try:
                await _Session(server, replies, tls, (reader, writer)).hold()
            except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass
            finally:
                sessions.discard(task)
                writer.close()

        context = tls if implicit_tls else None
        if path:
            listener = await asyncio.start_unix_server(accept, path, ssl=context)
        else:
            listener = await asyncio.start_server(
                accept, "127.0.0.1", 0, ssl=context, limit=_LARGEST
            )
            server.address = "127.0.0.1:{1}".format(*listener.sockets[0].getsockname())
        async with listener:
            started.set()
            await stop.wait()
            for session in sessions:
                session.cancel()
            await asyncio.gather(*sessions, return_exceptions=True)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
