"""The line between a receiver and its storer, who trust each other: objects on a socket."""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

from mailapp.errors import DidNotStart

_SIZE = struct.Struct("!I")
_BUFFER_OCTETS = 1024 * 1024


def packed(thing: Any) -> bytes:
    """Return the bytes from which the other end makes this object again."""
    body = pickle.dumps(thing, pickle.HIGHEST_PROTOCOL)
    return _SIZE.pack(len(body)) + body


def _unpacked(octets: memoryview) -> tuple[list[Any], int]:
    """Return the objects that are here whole, and how many octets they take."""
    things: list[Any] = []
    used = 0
    while len(octets) - used >= _SIZE.size:
        begin = used + _SIZE.size
        end = begin + _SIZE.unpack_from(octets, used)[0]
        if end > len(octets):
            break
        things.append(pickle.loads(octets[begin:end]))  # noqa: S301 - our own process wrote it
        used = end
    return things, used


class StorersLine:
    """The storer's end, which waits for each thing that is said."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray(_BUFFER_OCTETS)  # kept, since fresh memory costs time
        self._rest = 0  # octets of it that are the beginning of an object

    def hear(self) -> list[Any]:
        """Return what has been said by now, at least one object.

        Raise EOFError when there will be none.
        """
        while not (things := self._more()):
            if self._rest == len(self._buffer):
                self._buffer *= 2
        return things

    def _more(self) -> list[Any]:
        with memoryview(self._buffer) as place:
            count = self._connection.recv_into(place[self._rest :])
            if not count:
                raise EOFError
            end = self._rest + count
            things, used = _unpacked(place[:end])
            self._rest = end - used
            place[: self._rest] = place[used:end]
        return things

    def say(self, thing: Any) -> None:
        """Send an object."""
        self._connection.sendall(packed(thing))


class ReceiversLine(asyncio.Protocol):
    """The receiver's end. The storer says None when it is ready, then gives answers."""

    def __init__(self, on_answer: Callable[[Any], None]) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()  #: raises DidNotStart
        self.lost: asyncio.Future[None] = loop.create_future()
        self._on_answer = on_answer
        self._rest = b""  # the beginning of an answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        octets = self._rest + data
        answers, used = _unpacked(memoryview(octets))
        self._rest = octets[used:]
        for answer in answers:
            if answer is None:
                self.ready.set_result(None)
            else:
                self._on_answer(answer)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(DidNotStart("the storer"))
        self.lost.set_result(None)

    def send(self, work: Any) -> None:
        """Hand something over; nothing happens when the storer has died, as `lost` will say."""
        if not self._transport.is_closing():
            self._transport.write(packed(work))

    def close(self) -> None:
        """Tell the storer that there will be no more."""
        self._transport.close()
