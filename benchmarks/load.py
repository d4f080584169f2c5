"""Puts load on an SMTP server: `smtp-source` where it is installed, else our own client."""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

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
        reader, writer = await asyncio.open_connection(self.host, int(self.port))

        async def ask(command: bytes, wanted: bytes) -> None:
            writer.write(command)
            while (line := await reader.readline())[3:4] == b"-":
                pass
            if not line.startswith(wanted):
                raise BrokenBenchmark(f"{command[:40]!r} was answered {line!r}")

        await ask(b"", b"220")
        await ask(b"EHLO client.test\r\n", b"250")
        for number in numbers:
            token = token_of(self.run, number)
            recipient = self.load.recipient.format(group=int(token, 16) % 100)
            await ask(f"MAIL FROM:<{token}@client.test>\r\n".encode(), b"250")
            await ask(f"RCPT TO:<{recipient}>\r\n".encode(), b"250")
            await ask(b"DATA\r\n", b"354")
            writer.write(
                f"From: {token}@client.test\r\nMessage-ID: <{token}@client.test>\r\n".encode()
            )
            await ask(self.rest, b"250")
        await ask(b"QUIT\r\n", b"221")
        writer.close()
        await writer.wait_closed()
