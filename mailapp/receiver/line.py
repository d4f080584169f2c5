"""The line between a receiver and its storer, who trust each other: objects on a socket."""

from __future__ import annotations

import asyncio
import pickle
import struct
from collections.abc import Callable, Iterator
from typing import Any, cast

from mailapp.errors import DidNotStart

_SIZE = struct.Struct("!I")


def pack(thing: Any) -> bytes:
    """Return the bytes from which `Frames` makes this object again."""
    body = pickle.dumps(thing, pickle.HIGHEST_PROTOCOL)
    return _SIZE.pack(len(body)) + body


class Frames:
    """Cuts what comes in, however it is cut into segments, into the objects that were packed."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """Take bytes; yield each object that is complete."""
        self._buffer += data
        while len(self._buffer) >= _SIZE.size:
            end = _SIZE.size + _SIZE.unpack_from(self._buffer)[0]
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_SIZE.size : end])
            del self._buffer[:end]
            yield pickle.loads(body)  # noqa: S301 - our own process wrote it


class Line(asyncio.Protocol):
    """The receiver's end. The storer says None when it is ready, then gives answers."""

    def __init__(self, on_answer: Callable[[Any], None]) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()  #: raises DidNotStart
        self.lost: asyncio.Future[None] = loop.create_future()
        self._on_answer = on_answer
        self._frames = Frames()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        for answer in self._frames.feed(data):
            if answer is None:
                self.ready.set_result(None)
            else:
                self._on_answer(answer)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(DidNotStart("the storer"))
        self.lost.set_result(None)

    def send(self, work: Any) -> None:
        """Hand something over."""
        self._transport.write(pack(work))

    def close(self) -> None:
        """Tell the storer that there will be no more."""
        self._transport.close()
