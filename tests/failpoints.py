"""Makes what a program cannot take back fail once: commits, fsyncs, renames, removals of files.

Each such act is named by the part of the program and the functions of ours that lead to it, so
that one that is added later fails, too. It is the system, or Django's side of the database, that
fails; our own code is as it is.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from django.db import Error, OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

_FILE_ACTS = ("fsync", "link", "remove", "rename", "replace", "unlink")
_WRITES = ("INSERT", "UPDATE", "DELETE", "SELECT mailapp_")  #: or calls a function of ours
_FRAMES = 3  #: so many functions name an act


class Failure(NamedTuple):
    """How an act fails."""

    number: int  #: of the error of the system
    message: str  #: of the error of the database
    cuts: bool = False  #: the connection to PostgreSQL breaks, too
    takes_place: bool = False  #: and only that it did is not heard


FAILURES = {
    "full": Failure(errno.ENOSPC, "database or disk is full"),
    "broken": Failure(errno.EIO, "disk I/O error", cuts=True),
    "unheard": Failure(errno.EIO, "disk I/O error", cuts=True, takes_place=True),
}


class Failpoints:
    """What has failed: a folder with an empty file for each act, shared by all processes.

    As long as there is no folder nothing fails; an act whose file is there fails no more.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def arm(self) -> None:
        """Let each act fail once from now on."""
        self._folder.mkdir()

    def rearm(self, act: str) -> None:
        """Let an act that has failed fail once more."""
        (self._folder / act).unlink()

    def reached(self) -> list[str]:
        """The names of all acts that have failed."""
        return sorted(path.name for path in self._folder.iterdir())

    def reaches(self, kind: str) -> bool:
        """Say, once, that this act is to fail."""
        functions = list(islice(_our_functions(sys._getframe()), _FRAMES))
        if not functions:
            return False
        try:
            (self._folder / f"{_part()} {kind} {' < '.join(functions)}").touch(exist_ok=False)
        except (FileExistsError, FileNotFoundError):
            return False
        return True


def _our_functions(frame: FrameType | None) -> Iterator[str]:
    """Name the functions of mailapp that are running, the innermost first."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("mailapp.") and module != "mailapp.turns":  # which all go through
            yield f"{module.removeprefix('mailapp.')}.{frame.f_code.co_qualname}"
        frame = frame.f_back


def _part() -> str:
    if "--storer-fd" in sys.argv:
        return "storer"
    if "--only" in sys.argv:
        return sys.argv[sys.argv.index("--only") + 1]
    return Path(sys.argv[0]).stem if len(sys.argv) == 1 else sys.argv[1]


def install(points: Failpoints, failure: Failure) -> None:
    """Have acts of this process fail, for as long as it runs."""
    for name in _FILE_ACTS:
        setattr(os, name, _failing_file_act(points, failure, name))
    _let_commits_fail(points, failure)


def _failing_file_act(points: Failpoints, failure: Failure, name: str) -> Callable[..., None]:
    act = getattr(os, name)

    def fail_or_act(*args: Any, **kwargs: Any) -> None:
        if not points.reaches(name):
            return act(*args, **kwargs)
        if failure.takes_place:
            act(*args, **kwargs)
        raise OSError(failure.number, os.strerror(failure.number))

    return fail_or_act


def _let_commits_fail(points: Failpoints, failure: Failure) -> None:
    commit = BaseDatabaseWrapper._commit

    def fail_or_commit(connection: BaseDatabaseWrapper) -> None:
        if points.reaches("commit"):
            _fail(connection, failure, lambda: commit(connection))
        else:
            commit(connection)

    def fail_or_write(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        connection = context["connection"]
        is_commit = not connection.in_atomic_block and str(sql).startswith(_WRITES)
        if not is_commit or not points.reaches("write"):
            return execute(sql, params, many, context)
        return _fail(connection, failure, lambda: execute(sql, params, many, context))

    def watch(connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
        if fail_or_write not in connection.execute_wrappers:
            connection.execute_wrappers.append(fail_or_write)

    BaseDatabaseWrapper._commit = fail_or_commit
    connection_created.connect(watch, weak=False)


def _fail(connection: BaseDatabaseWrapper, failure: Failure, act: Callable[[], object]) -> None:
    cuts = failure.cuts and connection.vendor == "postgresql"
    if failure.takes_place:
        act()
    if cuts:
        _cut(connection)
    if cuts and not failure.takes_place:
        act()  # and see what a connection that is cut raises
    raise OperationalError(failure.message)


def _cut(connection: BaseDatabaseWrapper) -> None:
    """Have PostgreSQL end the process that serves this connection."""
    import psycopg

    parameters = connection.get_connection_params()
    names = ("dbname", "user", "password", "host", "port")
    with psycopg.connect(
        **{name: parameters[name] for name in names if name in parameters}, autocommit=True
    ) as other:
        other.execute(
            "SELECT pg_terminate_backend(%s, 10000)", [connection.connection.info.backend_pid]
        )


class Formatter(logging.Formatter):
    """Shows a traceback only of an error that is not the system's."""

    def formatException(self, ei: Any) -> str:
        return repr(ei[1]) if isinstance(ei[1], (Error, OSError)) else super().formatException(ei)
