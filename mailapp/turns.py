"""Whoever writes to an SQLite database gets its turn in order. Elsewhere nobody has to wait.

SQLite has one writer at a time, and who finds it busy sleeps and tries again: one that writes
without a pause keeps others waiting for a second. Its own lock stays what keeps writers apart;
this only says who is next, so what writes without it, or cannot reach the files, does no harm.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from functools import partial
from typing import IO

from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from mailapp import filelock


@contextlib.contextmanager
def atomic(using: str = DEFAULT_DB_ALIAS, *, savepoint: bool = True) -> Iterator[None]:
    """As `transaction.atomic()`, for transactions that write from their beginning."""
    connection = connections[using]
    turnstile = None if connection.in_atomic_block else _turnstile(connection)
    if turnstile is None:
        with transaction.atomic(using, savepoint):
            yield
        return
    try:
        turnstile.take()
        with transaction.atomic(using):
            connection.on_commit(turnstile.leave)
            yield
    finally:
        turnstile.leave()


def take(connection: BaseDatabaseWrapper) -> None:
    """Wait until it is this thread's turn to write, unless it is.

    Never in a transaction that writes already, for which the one whose turn it is may wait.
    """
    if turnstile := _turnstile(connection):
        turnstile.take()


def leave(connection: BaseDatabaseWrapper) -> None:
    """Let the next one write."""
    if turnstile := _turnstile(connection):
        turnstile.leave()


def leave_at_commit(connection: BaseDatabaseWrapper) -> None:
    """Let the next one write as soon as the transaction is committed, ahead of later hooks."""
    connection.on_commit(partial(leave, connection))


class _Turnstile:
    """What one thread holds of the way to a database: it is next, and then it is its turn.

    Only who is next waits for the turn, so that who has just had it cannot have it again before.
    """

    def __init__(self, database: str) -> None:
        self._files = contextlib.ExitStack()
        self._next, self._turn = (
            self._files.enter_context(_opened(f"{database}-{which}")) for which in ("next", "turn")
        )
        self._is_ours = False

    def __del__(self) -> None:  # the thread has ended
        self._files.close()

    def take(self) -> None:
        if not self._is_ours:
            self._is_ours = True  # first, so that it is left whatever is raised meanwhile
            try:
                filelock.hold(self._next)
                filelock.hold(self._turn)
            finally:
                filelock.let_go(self._next)

    def leave(self) -> None:
        if self._is_ours:
            self._is_ours = False
            filelock.let_go(self._turn)


def _opened(path: str) -> IO[bytes]:
    """Open a file to be locked. To read is enough, as where it was root who wrote here first."""
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_CREAT, 0o666), "rb")


_ours = threading.local()

# What a process is born with is its parent's, which may end before it.
os.register_at_fork(after_in_child=lambda: vars(_ours).clear())


def _turnstile(connection: BaseDatabaseWrapper) -> _Turnstile | None:
    """This thread's own, made when it is first needed: a lock is that of who opened the file."""
    database = str(connection.settings_dict["NAME"])
    if connection.vendor != "sqlite" or connection.is_in_memory_db():  # type: ignore[attr-defined]
        return None
    known: dict[str, _Turnstile] = vars(_ours)
    if database not in known:
        with contextlib.suppress(OSError):
            known[database] = _Turnstile(database)
    return known.get(database)
