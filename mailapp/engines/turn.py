"""What a task of an engine does: it works a queue for a while, as a worker does.

The tasks that an operating system process runs one after the other share a row of `Process`.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import defaultdict
from collections.abc import Iterator

from mailapp import timers, worker
from mailapp.conf import mail_settings
from mailapp.lifecycle import Life, beating
from mailapp.models import Delivery, Process, Queue

from .waker import ring

_SECONDS = 5.0  # then the other tasks of the engine have their turn

_at_rest: defaultdict[tuple[int, str], list[Process]] = defaultdict(list)


def take(queue: str) -> None:
    """Work what is due in `queue`, and ask for another task when there is enough for two."""
    Queue.objects.filter(name=queue).update(woken_at=None)  # before the look
    size = mail_settings().BATCH_SIZE
    due = Delivery.objects.count_claimable(queue, size + 1)
    if not due and not timers.are_due(queue):
        return
    if due > size:
        ring(queue)
    with _at_work(queue) as life:
        worker.drain(queue, life)
    if life.stopping.is_set():
        ring(queue)


@contextlib.contextmanager
def _at_work(queue: str) -> Iterator[Life]:
    """Live as a worker, until the time is up. Signals are left to the engine."""
    resting = _at_rest[os.getpid(), queue]
    process = resting.pop() if resting else Process.here(Process.Kind.WORKER, queue)
    life = Life(process)
    clock = threading.Timer(_SECONDS, life.stop)
    clock.daemon = True
    with beating(life):
        clock.start()
        try:
            yield life
        finally:
            clock.cancel()
    resting.append(process)
