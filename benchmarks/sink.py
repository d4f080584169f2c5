"""The smart host of the benchmarks: takes every mail, counts it and forgets it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.harness import BrokenBenchmark


class Sink:
    """What came in so far."""

    def __init__(self) -> None:
        self.address = ""
        self.count = 0
        self.changed = threading.Condition()

    def took_one(self) -> None:
        with self.changed:
            self.count += 1
            self.changed.notify_all()

    def wait_for(self, count: int, seconds: float = 120) -> float:
        """Wait until `count` mails came in all; return when the last of them did."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.count >= count, seconds):
                raise BrokenBenchmark(
                    f"{self.count} of {count} mails came within {seconds} seconds"
                )
        return time.time()


class _Session(asyncio.Protocol):
    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.unread = b""
        self.in_message = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(b"220 sink ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self.unread += data
        while self.take_message() if self.in_message else self.take_command():
            pass

    def take_message(self) -> bool:
        _, dot, rest = self.unread.partition(b"\r\n.\r\n")
        if dot:
            self.unread, self.in_message = rest, False
            self.sink.took_one()
            self.transport.write(b"250 OK\r\n")
        return bool(dot)

    def take_command(self) -> bool:
        command, end, rest = self.unread.partition(b"\r\n")
        if not end:
            return False
        self.unread = rest
        self.obey(command[:4].upper())
        return True

    def obey(self, verb: bytes) -> None:
        if verb == b"DATA":
            self.in_message = True
            self.transport.write(b"354 Go ahead\r\n")
        elif verb == b"EHLO":  # as nearly every smart host answers
            self.transport.write(b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE\r\n")
        elif verb == b"QUIT":
            self.transport.write(b"221 Bye\r\n")
            self.transport.close()
        else:
            self.transport.write(b"250 OK\r\n")


@contextlib.contextmanager
def running_sink() -> Iterator[Sink]:
    """Run a sink in a thread until the block ends."""
    sink, ready = Sink(), threading.Event()
    stop: Callable[[], object]

    async def serve() -> None:
        nonlocal stop
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()
        stop = partial(loop.call_soon_threadsafe, stopping.set)
        server = await loop.create_server(lambda: _Session(sink), "127.0.0.1")
        host, port = server.sockets[0].getsockname()
        sink.address = f"{host}:{port}"
        ready.set()
        await stopping.wait()
        server.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    ready.wait()
    try:
        yield sink
    finally:
        stop()
        thread.join()
