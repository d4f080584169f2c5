"""What a supervisor does for a worker that is stuck. That another works: tests/acceptance."""

from __future__ import annotations

import os

import pytest
from django.db import connection

from mailapp.containment import slow_seconds
from mailapp.inhand import InHand
from mailapp.models import INCOMING, Delivery
from mailapp.standins import act_for
from tests.waiting import wait_until


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
