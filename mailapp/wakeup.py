"""Tell the process that works a queue that mail is due. A lost wake-up costs a poll, no mail.

PostgreSQL carries it by NOTIFY, within the transaction; elsewhere a datagram goes to the
sockets in `RUN_DIR/wake` after the commit. An engine of other workers is told after it, too.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import select
import socket
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, Self

from django.db import DatabaseError, connection, transaction
from django.utils.module_loading import import_string

from mailapp.conf import mail_settings

logger = logging.getLogger(__name__)

_CHANNEL = "mailapp_"
_TICK = 1_000_000_000  # ns: what happens to a folder within one may bear the same time
_numbers = itertools.count()


def notify(queue: str) -> None:
    """Wake whoever waits for `queue`, once the surrounding transaction is committed."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, '')", [channel(queue)])
    else:
        transaction.on_commit(lambda: _send(queue), robust=True)
    tell_engine(queue)


def channel(queue: str) -> str:
    """The name under which PostgreSQL carries the wake-ups of a queue."""
    return _CHANNEL + queue


def tell_engine(queue: str) -> None:
    """Tell the engine of other workers, where there is one, once the transaction is committed."""
    if mail_settings().ENGINE != "local":
        ring = import_string("mailapp.engines.ring")  # by its name, since it is built on this
        transaction.on_commit(lambda: ring(queue), robust=True)


def _folder() -> Path:
    return Path(mail_settings().RUN_DIR) / "wake"


def _send(queue: str) -> None:
    for path in _listeners(queue):
        try:
            _sender().sendto(b"", path)
        except ConnectionRefusedError:  # its process is dead
            _remove(Path(path))
        except OSError:  # its buffer is full: it is awake already
            continue


@lru_cache(maxsize=1)
def _sender() -> socket.socket:
    """The socket from which all wake-ups go: each commit would take a tenth longer with its own."""
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.setblocking(False)
    return sender


def _remove(path: Path) -> None:
    """Remove a socket, or leave it to whoever next has nobody there to hear."""
    with contextlib.suppress(OSError):
        path.unlink()


def _listeners(queue: str) -> list[str]:
    # Asked at each commit: to look into the folder would take longer than to send.
    try:
        folder = f"{mail_settings().RUN_DIR}/wake"
        changed = os.stat(folder).st_mtime_ns  # noqa: PTH116 - a Path takes longer than the rest
        settled = time.time_ns() - changed > _TICK
        return (_paths if settled else _paths.__wrapped__)(folder, queue, changed)
    except FileNotFoundError:
        return []


@lru_cache
def _paths(folder: str, queue: str, changed: int) -> list[str]:
    """The sockets of those who wait for a queue, since `changed` (ns), when one came or went."""
    with os.scandir(folder) as entries:
        return [entry.path for entry in entries if entry.name.startswith(f"{queue}.")]


class Listener(Protocol):
    """Waits for `notify` of one queue."""

    def wait(self, timeout: float) -> None:
        """Return when the queue was notified since the last wait, or after `timeout` seconds."""

    def wake(self) -> None:
        """Make the current or next `wait` return; safe in a signal handler and any thread."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


def listen(queue: str) -> Listener:
    """Return a context manager that can `wait` for `queue`."""
    if connection.vendor == "postgresql":
        return _PostgresListener(queue)
    return _SocketListener(queue)


class _SelfPipe:
    def __init__(self) -> None:
        self.reader, self.writer = socket.socketpair()
        self.reader.setblocking(False)
        self.writer.setblocking(False)

    def wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it is awake already; closed: nobody waits
            self.writer.send(b"w")

    def wait_with(self, other: Any, timeout: float) -> None:
        ready, _, _ = select.select([self.reader, other], [], [], max(timeout, 0))
        if self.reader in ready:
            with contextlib.suppress(BlockingIOError):
                self.reader.recv(4096)

    def close(self) -> None:
        self.reader.close()
        self.writer.close()


class _SocketListener:
    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.pipe = _SelfPipe()

    def __enter__(self) -> Self:
        _folder().mkdir(parents=True, exist_ok=True)
        self.path = _folder() / f"{self.queue}.{os.getpid()}.{next(_numbers)}"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(str(self.path))
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()
        _remove(self.path)
        self.pipe.close()

    def wake(self) -> None:
        self.pipe.wake()

    def wait(self, timeout: float) -> None:
        self.pipe.wait_with(self.socket, timeout)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.socket.recv(1)


class _PostgresListener:
    """Listens on a connection of its own, since LISTEN must outlive the worker's transactions."""

    def __init__(self, queue: str) -> None:
        self.channel = channel(queue)
        self.pipe = _SelfPipe()
        self.connection = connection.copy()

    def __enter__(self) -> Self:
        self._listen()
        return self

    def __exit__(self, *exc: object) -> None:
        self.connection.close()
        self.pipe.close()

    def wake(self) -> None:
        self.pipe.wake()

    def wait(self, timeout: float) -> None:
        try:
            raw = self._listen()
            with self.connection.wrap_database_errors:
                if not list(raw.notifies(timeout=0)):
                    self.pipe.wait_with(raw, timeout)
                    list(raw.notifies(timeout=0))
        except (DatabaseError, OSError) as error:
            logger.warning("Not listening, only polling: %s", type(error).__name__)
            self.connection.close()
            self.pipe.wait_with(self.pipe.reader, timeout)

    def _listen(self) -> Any:
        if self.connection.connection is None:
            from psycopg import sql

            with self.connection.cursor() as cursor:
                cursor.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self.channel)))
        return self.connection.connection
