"""What a supervisor and its children have of each other. How they end: tests/acceptance."""

from __future__ import annotations

import os
import signal
import socket
import threading

import pytest
from django.db import connection

from mailapp.containment import slow_seconds
from mailapp.inhand import InHand
from mailapp.models import INCOMING, Delivery
from mailapp.supervisor import act_for, supervised
from tests.waiting import DEADLINE, wait_until


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


# A worker that is stuck


@pytest.fixture
def worker_in_a_slow_handler(process, message, settings):
    """A worker that has the first of three mails in hand, and what its supervisor sees of it."""
    settings.MAIL = {**settings.MAIL, "BATCH_SECONDS": 0.001, "HANDLER_SECONDS": 0.001}
    for sender in ("a@client.test", "b@client.test", "c@client.test"):
        message(sender=sender)
    worker = process()
    batch = Delivery.objects.claim(INCOMING, worker, 3)
    seen, fd = InHand.shared()
    own = InHand(fd)
    os.close(fd)
    own.take([each.pk for each in batch])
    own.begin(batch[0].pk)
    wait_until(lambda: seen.seconds > slow_seconds())
    return worker, own, seen


@pytest.mark.django_db(transaction=True)
def test_what_waits_behind_a_slow_handler_is_given_back(worker_in_a_slow_handler):
    worker, _, seen = worker_in_a_slow_handler

    act_for(worker.pid, seen)

    assert Delivery.objects.claimed().count() == 1


@pytest.mark.django_db(transaction=True)
def test_worker_that_goes_on_while_the_supervisor_waits_keeps_what_it_has(worker_in_a_slow_handler):
    worker, own, seen = worker_in_a_slow_handler

    def go_on(execute, *statement):
        own.end()
        return execute(*statement)

    with connection.execute_wrapper(go_on):
        act_for(worker.pid, seen)

    assert Delivery.objects.claimed().count() == 3
