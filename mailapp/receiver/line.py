"""The line between a receiver and its storer, who trust each other: objects on a socket."""

from __future__ import annotations

import asyncio
import pickle
import select
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

from mailapp.errors import DidNotStart

_SIZE = struct.Struct("!I")
_BUFFER_OCTETS = 1024 * 1024
_NOTHING = object()


def packed(thing: Any) -> tuple[bytes, bytes]:
    """Return the bytes from which the other end makes this object again, in two parts."""
    body = pickle.dumps(thing, pickle.HIGHEST_PROTOCOL)
    return _SIZE.pack(len(body)), body


class StorersLine:
    """The storer's end, which waits for each thing that is said."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray(_BUFFER_OCTETS)  # kept, since fresh memory costs time

    def hear(self) -> list[Any]:
        """Return what has been said by now, at least one object.

        Raise EOFError when there will be none.
        """
        heard = [self._next()]
        while select.select([self._connection], [], [], 0)[0]:
            heard.append(self._next())
        return heard

    def _next(self) -> Any:
        [size] = _SIZE.unpack(self._read(_SIZE.size))
        return pickle.loads(self._read(size))  # noqa: S301 - our own process wrote it

    def _read(self, count: int) -> memoryview:
        if count > len(self._buffer):
            self._buffer = bytearray(count)
        place = memoryview(self._buffer)[:count]
        read = 0
        while read < count:
            more = self._connection.recv_into(place[read:])
            if not more:
                raise EOFError
            read += more
        return place

    def say(self, thing: Any) -> None:
        """Send an object."""
        self._connection.sendall(b"".join(packed(thing)))


class ReceiversLine(asyncio.Protocol):
    """The receiver's end. The storer says None when it is ready, then gives answers."""

    def __init__(self, on_answer: Callable[[Any], None]) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()  #: raises DidNotStart
        self.lost: asyncio.Future[None] = loop.create_future()
        self._on_answer = on_answer
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (answer := self._next_answer()) is not _NOTHING:
            if answer is None:
                self.ready.set_result(None)
            else:
                self._on_answer(answer)

    def _next_answer(self) -> Any:
        if len(self._buffer) < _SIZE.size:
            return _NOTHING
        end = _SIZE.size + _SIZE.unpack_from(self._buffer)[0]
        if len(self._buffer) < end:
            return _NOTHING
        body = bytes(self._buffer[_SIZE.size : end])
        del self._buffer[:end]
        return pickle.loads(body)  # noqa: S301 - our own process wrote it

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(DidNotStart("the storer"))
        self.lost.set_result(None)

    def send(self, work: Any) -> None:
        """Hand something over; nothing happens when the storer has died, as `lost` will say."""
        if not self._transport.is_closing():
            self._transport.writelines(packed(work))

    def close(self) -> None:
        """Tell the storer that there will be no more."""
        self._transport.close()
