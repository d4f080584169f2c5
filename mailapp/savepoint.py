"""Transactions that cost nobody anything as long as a handler does not touch the database."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Self

from django.db import (
    DEFAULT_DB_ALIAS,
    DatabaseError,
    Error,
    connection,
    connections,
    models,
    transaction,
)

from mailapp import turns
from mailapp.errors import TransactionLeft, WorkLost
from mailapp.models import Queue


@contextlib.contextmanager
def atomic_until_locked() -> Iterator[None]:
    """As `transaction.atomic()`, but on SQLite others may write until `lock` is called.

    That must come before the first statement: SQLite lets nobody write who has read before.
    """
    if connection.vendor != "sqlite":
        with transaction.atomic():
            yield
        return
    sqlite: Any = connection  # of which mypy knows what all databases have
    sqlite.ensure_connection()  # which sets the mode
    mode = sqlite.transaction_mode
    sqlite.transaction_mode = "DEFERRED"
    try:
        with transaction.atomic():
            sqlite.transaction_mode = mode
            turns.leave_at_commit(connection)
            yield
    finally:
        sqlite.transaction_mode = mode
        turns.leave(connection)


def lock() -> None:
    """Be the only one who writes from now to the end of the transaction; SQLite knows no other."""
    if connection.vendor == "sqlite":
        turns.take(connection)
        table = connection.ops.quote_name(Queue._meta.db_table)
        with connection.cursor() as cursor:
            cursor.execute(f"UPDATE {table} SET name = name WHERE 0")  # noqa: S608 - our own name


@contextlib.contextmanager
def no_transaction_left() -> Iterator[None]:
    """Outside of any transaction: raise TransactionLeft if the block has left one open."""
    try:
        yield
    finally:
        if connection.connection is not None and not connection.get_autocommit():
            connection.in_atomic_block = False  # or Django would keep what it closes
            connection.close()
            raise TransactionLeft


class SavepointOnDemand:
    """As `transaction.atomic()` within a transaction, but begun with the first statement.

    `before` is called ahead of it and is no part of it. When that fails, the whole transaction
    is marked for rollback, even if whoever made the statement catches what is raised.

    Raise WorkLost at the end if the database has dropped what was done, and nobody said so;
    TransactionLeft if an `atomic()` within was entered and never left.

    It sees what goes through Django's cursors: not `callproc`, nor the COPY of psycopg.
    """

    def __init__(self, before: Callable[[], None]) -> None:
        self._before = before
        self._begun = False
        self._writes: set[str] = set()
        self._spoilt = False
        self._savepoint: str | None = None
        self._connection = connections[DEFAULT_DB_ALIAS]  # to look for it takes a microsecond
        self._hooks = len(self._connection.run_on_commit)
        self._depth = len(self._connection.savepoint_ids)
        self._watch = self._connection.execute_wrapper(self._execute)

    def __enter__(self) -> Self:
        self._watch.__enter__()
        return self

    def _execute(self, execute: Callable[..., Any], statement: Any, *rest: Any) -> Any:
        if not self._begun:
            self._begun = True
            self._begin()
            self._writes.clear()  # those of `before`
        if not (text := str(statement)).startswith("SELECT"):
            self._writes.add(text)
        return execute(statement, *rest)

    def wrote(self, model: type[models.Model]) -> bool:
        """Say whether a statement may have changed the table of a model."""
        return any(model._meta.db_table in text for text in self._writes)

    def _begin(self) -> None:
        try:
            self._before()
        except BaseException:
            self._spoilt = True
            raise
        self._savepoint = self._connection.savepoint()

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        self._watch.__exit__(None, None, None)
        if len(self._connection.savepoint_ids) > self._depth:
            # Nothing would be committed any more.
            del self._connection.savepoint_ids[self._depth :]
            self._connection.close()
            raise TransactionLeft
        is_lost = self._spoilt or self._connection.get_rollback()
        if self._spoilt:
            self._connection.set_rollback(True)
        elif self._connection.closed_in_transaction:
            pass  # the database has dropped everything, and the flag says so
        elif kind is None and not is_lost:
            self._keep()
        else:
            self._undo()
        if kind is None and is_lost:
            raise WorkLost

    def _keep(self) -> None:
        if self._savepoint is None:
            return
        try:
            self._connection.savepoint_commit(self._savepoint)
        except DatabaseError:
            self._undo()
            raise

    def _undo(self) -> None:
        del self._connection.run_on_commit[self._hooks :]
        self._connection.set_rollback(False)
        if self._savepoint is None:
            return
        try:
            self._connection.savepoint_rollback(self._savepoint)
            self._connection.savepoint_commit(self._savepoint)  # forget it
        except Error:
            self._connection.set_rollback(True)
