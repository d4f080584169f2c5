"""Tells the engine that mail is due: once for many mails, and never while a commit waits for it.

Each wake-up is noted on its queue, and until a worker has looked no other is sent, by whatever
process. One that is lost counts as such after `MAIL["POLL_SECONDS"]`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib import import_module

from django.db import close_old_connections
from django.utils import timezone

from mailapp.conf import mail_settings
from mailapp.models import OUTGOING, Queue

logger = logging.getLogger(__name__)

_GATHER = 0.05  # seconds: mail that is stored meanwhile needs no wake-up of its own


def ring(queue: str) -> None:
    """Have the engine work `queue` soon. Returns at once, and raises nothing if it is down."""
    if queue != OUTGOING:  # the relay's
        _waker().ring(queue)


class _Waker:
    """The thread that talks to the engine."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="waker")
        self._lock = threading.Lock()
        self._rung: set[str] = set()

    def ring(self, queue: str) -> None:
        with self._lock:
            if queue in self._rung:
                return
            self._rung.add(queue)
        self._thread.submit(self._wake, queue)

    def _wake(self, queue: str) -> None:
        self._rung.discard(queue)  # first: who rings from now on may have newer mail
        try:
            if Queue.objects.handled().asleep().filter(name=queue).update(woken_at=timezone.now()):
                import_module(f"mailapp.engines.{mail_settings().ENGINE}").send(queue)
        except Exception as error:
            logger.warning("The engine was not told of mail in %s: %r", queue, error)
        finally:
            close_old_connections()
        time.sleep(_GATHER)


@lru_cache(maxsize=1)
def _waker() -> _Waker:
    return _Waker()


os.register_at_fork(after_in_child=_waker.cache_clear)  # the thread stays with the parent
