"""What a worker has in hand, as its supervisor sees it in the memory that they share."""

from __future__ import annotations

import os

import pytest

from mailapp.inhand import InHand


@pytest.fixture
def sides():
    """The worker's side and the supervisor's."""
    supervisors, fd = InHand.shared()
    yield InHand(fd), supervisors
    os.close(fd)


def test_who_has_not_begun_has_nothing_in_hand(sides):
    _, seen = sides

    assert (seen.seconds, seen.behind) == (0, [])


def test_what_waits_behind_a_delivery_is_seen(sides):
    worker, seen = sides

    worker.take([7, 3, 5, 9])
    worker.begin(3)

    assert seen.seconds > 0
    assert seen.behind == [5, 9]


def test_nothing_waits_behind_what_is_of_no_batch(sides):
    worker, seen = sides

    worker.take([7, 3])
    worker.begin(0)

    assert seen.seconds > 0
    assert seen.behind == []


def test_who_has_ended_has_nothing_in_hand(sides):
    worker, seen = sides
    worker.take([7, 3])
    worker.begin(7)

    worker.end()

    assert (seen.seconds, seen.behind) == (0, [])
