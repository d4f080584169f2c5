"""Finds what a lost wake-up, a dead worker or a retry has left, and tells the engine of it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from django.db import Error, connection
from django.utils import timezone

from mailapp import housekeeping, timers
from mailapp.conf import mail_settings
from mailapp.lifecycle import living, release_dead
from mailapp.models import Delivery, Process, Queue
from mailapp.worker import idle_seconds

from .waker import ring

logger = logging.getLogger(__name__)


def run(on_ready: Callable[[str], None] = lambda engine: None) -> None:
    """Sweep until SIGTERM or SIGINT, whenever mail becomes due and every `POLL_SECONDS`."""
    with living(Process.Kind.SWEEPER) as life, housekeeping.daily():
        on_ready(mail_settings().ENGINE)
        pause = 0.0
        while not life.stopping.wait(pause):
            pause = _sweep_and_look_ahead()


def sweep() -> None:
    """Release what dead processes had claimed, and wake each queue that has something due."""
    release_dead()
    for queue in _queues():
        if Delivery.objects.filter(queue=queue).due().exists() or timers.are_due(queue):
            ring(queue)


def _sweep_and_look_ahead() -> float:
    """Sweep; return for how many seconds nothing else will become due."""
    begin, poll = timezone.now(), mail_settings().POLL_SECONDS
    try:
        sweep()
        return min((idle_seconds(queue, begin) for queue in _queues()), default=poll)
    except Error:
        logger.exception("The database does not answer; trying again")
        connection.close()
        return poll


def _queues() -> list[str]:
    return list(Queue.objects.handled().values_list("name", flat=True))
