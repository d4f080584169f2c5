"""What a receiver and its storer say to each other arrives whole, in whatever pieces it comes."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mailapp.receiver.line import ReceiversLine, StorersLine, packed

_LARGER_THAN_THE_BUFFER = b"x" * (3 * 1024 * 1024)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, StorersLine]]:
    """The end of a receiver, and that of its storer."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, StorersLine(theirs)


def test_a_storer_hears_at_once_what_was_said_meanwhile(
    ends: tuple[socket.socket, StorersLine],
) -> None:
    receiver, storer = ends

    receiver.sendall(packed("one") + packed("two"))

    assert storer.hear() == ["one", "two"]


def test_a_storer_goes_on_with_what_is_whole(ends: tuple[socket.socket, StorersLine]) -> None:
    receiver, storer = ends
    second = packed("two")

    receiver.sendall(packed("one") + second[:6])
    first_heard = storer.hear()
    receiver.sendall(second[6:] + packed("three"))

    assert (first_heard, storer.hear()) == (["one"], ["two", "three"])


def test_a_storer_hears_what_is_larger_than_its_buffer(
    ends: tuple[socket.socket, StorersLine],
) -> None:
    receiver, storer = ends
    said = packed(_LARGER_THAN_THE_BUFFER) + packed("small")
    saying = threading.Thread(target=receiver.sendall, args=[said])
    saying.start()

    heard = storer.hear()
    while len(heard) < 2:
        heard += storer.hear()

    saying.join()
    assert heard == [_LARGER_THAN_THE_BUFFER, "small"]


def test_a_storer_notices_the_end_within_an_object(
    ends: tuple[socket.socket, StorersLine],
) -> None:
    receiver, storer = ends

    receiver.sendall(packed("one")[:-1])
    receiver.shutdown(socket.SHUT_WR)

    with pytest.raises(EOFError):
        storer.hear()


@pytest.mark.parametrize("octets", [1, 7, 1000])
def test_a_receiver_hears_answers_in_pieces_of_any_size(octets: int) -> None:
    answers: list[Any] = []
    said = packed(None) + packed([[1, None]]) + packed([[2]])

    async def hear() -> bool:
        line = ReceiversLine(answers.append)
        for start in range(0, len(said), octets):
            line.data_received(said[start : start + octets])
        return line.ready.done()

    assert asyncio.run(hear())
    assert answers == [[[1, None]], [[2]]]
