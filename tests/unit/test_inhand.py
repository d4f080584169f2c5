"""What a worker has in hand, as its supervisor sees it in the memory that they share."""

from __future__ import annotations

import os
import tempfile

import pytest

from mailapp.conf import mail_settings
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


def test_batch_of_newer_settings_than_the_supervisors_is_noted_as_far_as_there_is_room(sides):
    worker, seen = sides
    most = mail_settings().BATCH_SIZE

    worker.take(range(1, 2 * most))
    worker.begin(1)

    assert seen.behind == list(range(2, most + 1))


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="the system has no such memory")
def test_what_is_in_hand_needs_no_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "full"))

    seen, fd = InHand.shared()
    os.close(fd)

    assert seen.seconds == 0
