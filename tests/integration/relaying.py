"""A relay in a thread, and what the tests ask of the mail that it had."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from django.db import connection

from mailapp import bounces
from mailapp.lifecycle import Life, living
from mailapp.models import OUTGOING, Delivery, Message, Process, Status
from mailapp.relay.work import Relay
from mailapp.wakeup import listen
from tests.waiting import DEADLINE, wait_until


@contextlib.contextmanager
def running_relay() -> Iterator[Life]:
    lives: list[Life] = []
    started = threading.Event()

    def run() -> None:
        try:
            with living(Process.Kind.RELAY, OUTGOING) as life, listen(OUTGOING) as bell:
                life.on_stop(bell.wake)
                lives.append(life)
                started.set()
                Relay(life, bell).work()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(DEADLINE)
    try:
        yield lives[0]
    finally:
        lives[0].stop()
        thread.join(DEADLINE)
        assert not thread.is_alive()


def tried() -> dict[str, Status]:
    """The status of each recipient, once every delivery was tried."""
    wait_until(lambda: not Delivery.objects.filter(status__in=["queued", "claimed"]).exists())
    return statuses()


def statuses() -> dict[str, Status]:
    return {row.recipient: Status(row.status) for row in Delivery.objects.all()}


def settled(message: Message) -> Delivery:
    """The only delivery of a message, once it was tried."""
    wait_until(lambda: message.deliveries.filter(attempt_set__isnull=False).exists())
    return message.deliveries.get()


def reports() -> list[bounces.Bounce]:
    """The failure reports that were queued."""
    found = [bounces.read(message.raw) for message in Message.objects.filter(sender="")]
    return [report for report in found if report is not None]
