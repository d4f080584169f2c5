"""Puts load on an SMTP server: `smtp-source` where it is installed, else our own client."""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, cast

import uvloop

from benchmarks.harness import BrokenBenchmark

SMTP_SOURCE = shutil.which("smtp-source") or shutil.which("/usr/sbin/smtp-source")
CONTENT = b"From: reader@client.test\r\nSubject: benchmark\r\n\r\n" + (b"x" * 78 + b"\r\n") * 51
_PROCESSES = 2


@dataclass(frozen=True)
class Load:
    """How mail is sent: of what size, to whom, how many at once, over how many connections."""

    name: str
    size: int
    kept: bool = True  #: many messages over one connection
    sessions: int = 20
    recipient: str = "note@localhost"  #: `{group}` is one of a hundred, but only by `converse`


KEPT = Load("kept connections, 4 kB", size=4096)
EACH = Load("a connection each, 4 kB", size=4096, kept=False)


class Span(NamedTuple):
    """When something began and ended (Unix time)."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


def sender(address: str, load: Load) -> Callable[[int], float]:
    """Return what sends so many messages and returns the seconds that it took."""
    return lambda count: send(address, load, count).seconds


def send(address: str, load: Load, count: int) -> Span:
    """Send `count` messages by the fastest means; return when the last was answered."""
    return _by_smtp_source(address, load, count) if SMTP_SOURCE else converse(address, load, count)


def _by_smtp_source(address: str, load: Load, count: int) -> Span:
    begin = time.time()
    done = subprocess.run(
        [
            *(SMTP_SOURCE or "smtp-source", "-s", str(load.sessions), "-m", str(count)),
            *(["-d"] if load.kept else []),
            *("-l", str(load.size), "-f", "reader@client.test", "-t", load.recipient),
            address,
        ],
    )
    if done.returncode:
        raise BrokenBenchmark(f"smtp-source could not send {count} messages to {address}")
    return Span(begin, time.time())


def converse(address: str, load: Load, count: int) -> Span:
    """Send `count` messages, each with its own sender and Message-ID, by processes of our own."""
    sessions = min(load.sessions, count)
    shares = [range(session, count, sessions) for session in range(sessions)]
    processes = min(_PROCESSES, sessions)
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        client = _Client(address, load, uuid.uuid4().hex[:8])
        jobs = [pool.submit(_send, client, shares[each::processes]) for each in range(processes)]
        spans = [job.result() for job in jobs]
    return Span(min(span.begin for span in spans), max(span.end for span in spans))


def _send(client: _Client, shares: Sequence[Sequence[int]]) -> Span:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(client.send(shares))


def token_of(run: str, number: int) -> str:
    """Return what tells a message from all others, without showing their order."""
    return hashlib.md5(f"{run}-{number}".encode()).hexdigest()


class _Client:
    def __init__(self, address: str, load: Load, run: str) -> None:
        self.host, _, self.port = address.rpartition(":")
        self.load = load
        self.run = run
        body = (b"x" * 78 + b"\r\n") * (load.size // 80)
        self.rest = b"Subject: benchmark\r\n\r\n" + body + b".\r\n"

    async def send(self, shares: Sequence[Sequence[int]]) -> Span:
        """Send each share in a session of its own, all at once."""
        begin = time.time()
        await asyncio.gather(*map(self.send_over_one, shares))
        return Span(begin, time.time())

    async def send_over_one(self, numbers: Sequence[int]) -> None:
        """Send over one connection, or over one after the other."""
        if not self.load.kept:
            for number in numbers:
                await self.session([number])
        else:
            await self.session(numbers)

    async def session(self, numbers: Sequence[int]) -> None:
        loop = asyncio.get_running_loop()
        _, session = await loop.create_connection(
            lambda: _Session(self.dialogue(numbers)), self.host, int(self.port)
        )
        await session.ended

    def dialogue(self, numbers: Sequence[int]) -> Iterator[Exchange]:
        yield Exchange(b"", b"220")
        yield Exchange(b"EHLO client.test\r\n", b"250")
        for number in numbers:
            token = token_of(self.run, number)
            recipient = self.load.recipient.format(group=int(token, 16) % 100)
            yield Exchange(f"MAIL FROM:<{token}@client.test>\r\n".encode(), b"250")
            yield Exchange(f"RCPT TO:<{recipient}>\r\n".encode(), b"250")
            yield Exchange(b"DATA\r\n", b"354")
            head = f"From: {token}@client.test\r\nMessage-ID: <{token}@client.test>\r\n"
            yield Exchange(head.encode() + self.rest, b"250")
        yield Exchange(b"QUIT\r\n", b"221")


class Exchange(NamedTuple):
    """What the client says, and how the reply to it has to begin."""

    said: bytes
    wanted: bytes


class _Session(asyncio.Protocol):
    """Says one thing after the other, each when the last was answered, at little cost."""

    def __init__(self, dialogue: Iterator[Exchange]) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.dialogue = dialogue
        self.reply = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)
        self.say_next()

    def say_next(self) -> None:
        self.reply = b""
        try:
            self.exchange = next(self.dialogue)
        except StopIteration:
            self.ended.set_result(None)
            self.transport.close()
        else:
            self.transport.write(self.exchange.said)

    def data_received(self, data: bytes) -> None:
        self.reply += data
        last = self.reply.removesuffix(b"\n").rpartition(b"\n")[2]
        if not self.reply.endswith(b"\n") or last[3:4] == b"-":
            return
        if self.reply.startswith(self.exchange.wanted):
            self.say_next()
        else:
            self.break_off(f"was answered {self.reply!r}")

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.break_off("was not answered")

    def break_off(self, trouble: str) -> None:
        self.ended.set_exception(BrokenBenchmark(f"{self.exchange.said[:40]!r} {trouble}"))
        self.transport.close()
