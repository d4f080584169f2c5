"""What a supervisor and its children have of each other. How they end: tests/acceptance."""

from __future__ import annotations

import os
import signal
import socket
import threading

import pytest

from mailapp.children import supervised
from tests.waiting import DEADLINE


@pytest.fixture
def asked_to_end():
    """Tell of a SIGTERM instead of dying of it."""
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *ignored: asked.set())
    yield asked
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def line():
    """The supervisor's end of a line, and the descriptor of the child's."""
    ours, theirs = socket.socketpair()
    with ours:
        yield ours, theirs.detach()


def test_part_that_runs_alone_has_nobody_to_tell():
    with supervised(None) as on_ready:
        on_ready("127.0.0.1:8823")


def test_child_says_where_it_serves(line, asked_to_end):
    ours, fd = line

    with supervised(fd) as on_ready:
        on_ready("127.0.0.1:8823")
        said = ours.recv(100)

    assert said == b"127.0.0.1:8823\n"


def test_child_is_asked_to_end_when_the_supervisor_is_gone(line, asked_to_end):
    ours, fd = line

    with supervised(fd):
        ours.close()

        assert asked_to_end.wait(DEADLINE)


def test_supervisor_sees_that_a_child_has_ended(line, asked_to_end):
    ours, fd = line

    with supervised(fd):
        pass
    ours.settimeout(DEADLINE)

    assert ours.recv(1) == b""
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
