"""The life of a long-running process: its row, its heartbeat, and its orderly end."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from django.db import DatabaseError, close_old_connections, connection

from mailapp.amounts import amount
from mailapp.conf import mail_settings
from mailapp.models import Delivery, Process

logger = logging.getLogger(__name__)

_COLLECT_AFTER = 10_000  # objects; a mail makes a few dozen, nearly all of which end with it


class Life:
    """What the process says of itself, and the wish that it should end."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.activity = ""  #: shown with the next heartbeat
        self.stopping = threading.Event()
        self._asked = False
        self._on_stop: list[Callable[[], None]] = []

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the process is asked to end, or now if it was.

        It must be quick, not raise, and do no harm when it is called twice.
        """
        self._on_stop.append(callback)
        if self._asked:
            callback()

    def stop(self, *ignored: object) -> None:
        """Ask the process to end; safe in a signal handler and in any thread."""
        if self._asked:  # a signal inside Event.set would wait for itself
            return
        self._asked = True
        self.stopping.set()
        for callback in self._on_stop:
            callback()


@contextlib.contextmanager
def living(kind: str, queue: str = "") -> Iterator[Life]:
    """Register this process, keep its heart beating, and say when it ended.

    In the main thread, SIGTERM and SIGINT ask it to stop; the body returns when it did.
    """
    life = Life(Process.here(kind, queue))
    with _stopped_by_signals(life), beating(life):
        yield life


@contextlib.contextmanager
def beating(life: Life) -> Iterator[None]:
    """Say that the process works, keep its heart beating, and say when it ended."""
    life.process.begin()
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(life, ended), name="heartbeat", daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        with contextlib.suppress(DatabaseError):
            life.process.stop()


def _stopped_by_signals(life: Life) -> AbstractContextManager[None]:
    if threading.current_thread() is not threading.main_thread():
        return contextlib.nullcontext()
    return on_signals(life.stop)


@contextlib.contextmanager
def on_signals(handler: Callable[..., None]) -> Iterator[None]:
    """Have SIGTERM and SIGINT call `handler` within the body; in the main thread alone."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _beat(life: Life, ended: threading.Event) -> None:
    try:
        while not ended.wait(mail_settings().HEARTBEAT_SECONDS):
            try:
                life.process.beat(life.activity)
            except DatabaseError:
                logger.warning("No heartbeat: the database does not answer")
                close_old_connections()
    finally:
        connection.close()


def keep_what_is_loaded() -> None:
    """Have the garbage collector leave alone, from now on, what the process was started with.

    It would look through all of Django again and again: a tenth of a busy receiver's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 20, 20)


def stay_on_one_core() -> None:
    """Have all threads that begin from now on share one of the cores, where the system can do so.

    Python lets one of them run at a time. To wake one on another core takes longer than what it
    then does, and meanwhile nobody runs.
    """
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        with contextlib.suppress(OSError):  # forbidden here
            os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})


def release_dead(idle: Life | None = None) -> int:
    """Queue again, in all queues, what dead processes had claimed; return how many deliveries.

    And what the process `idle` had, which has nothing in hand, whatever the rows say.
    """
    if released := Delivery.objects.release_dead(idle.process if idle else None):
        logger.warning(
            "Released %s that nobody works on any more", amount(released, "delivery", "deliveries")
        )
    return released
