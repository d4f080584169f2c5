"""Rows written without the cost of a model instance for each: the way in for every mail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

_ROWS_IN_ONE_STATEMENT = 500
Row = tuple[Any, ...]


class Insert:
    """The INSERT of a model's rows, of which only some columns differ.

    The other columns have the model's defaults, so that what is written is what `bulk_create`
    writes, at a fraction of its time.
    """

    def __init__(self, model: type[models.Model], columns: Sequence[str], using: str) -> None:
        """`columns` are the columns that differ; their values must suit the database's driver."""
        connection = connections[using]
        fields = {field.column: field for field in model._meta.concrete_fields if field.column}
        others = [column for column in fields if column not in columns]
        defaults = {column: _default(fields[column], connection) for column in others}
        # A column that is not named is NULL.
        same = {column: value for column, value in defaults.items() if value is not None}
        quote = connection.ops.quote_name
        names = ", ".join(quote(name) for name in [*columns, *same])
        self._using = using
        self._defaults = tuple(same.values())
        self._head = f"INSERT INTO {quote(model._meta.db_table)} ({names}) "
        self._places = "({})".format(", ".join(["%s"] * (len(columns) + len(same))))
        self._types = [fields[column].db_type(connection) for column in columns]
        self._default_types = [fields[column].db_type(connection) for column in same]
        self._returning = f" RETURNING {quote(_key_column(model))}"

    def rows(self, rows: Sequence[Row], cursor: CursorWrapper | None = None) -> None:
        """Insert rows, within a transaction: each is a statement of its own.

        A cursor need not be given, but takes time to make.
        """
        filled = [row + self._defaults for row in rows]
        (cursor or self._cursor()).executemany(f"{self._head}VALUES {self._places}", filled)

    def returning_keys(
        self, rows: Sequence[Row], conflict: str = "", cursor: CursorWrapper | None = None
    ) -> list[int]:
        """Insert rows and return their primary keys in order.

        `conflict` is an `ON CONFLICT` clause; a row of which it leaves nothing has no key here.
        """
        cursor = cursor or self._cursor()
        keys: list[int] = []
        for some in _in_parts(rows):
            statement, values = self._statement(some)
            cursor.execute(f"{statement} {conflict}{self._returning}", values)
            keys += [key for (key,) in cursor.fetchall()]
        return keys

    def _cursor(self) -> CursorWrapper:
        return connections[self._using].cursor()

    def _statement(self, rows: Sequence[Row]) -> tuple[str, list[Any]]:
        values = [value for row in rows for value in row + self._defaults]
        return f"{self._head}VALUES {', '.join([self._places] * len(rows))}", values


class ArrayInsert(Insert):
    """The same for PostgreSQL, with an array for each column that differs.

    The text is short and the same for any number of rows, and the values travel beside it, so
    that neither side has to write and read them as SQL: half the time of the other way.
    """

    def rows(self, rows: Sequence[Row], cursor: CursorWrapper | None = None) -> None:
        cursor = cursor or self._cursor()
        for some in _in_parts(rows):
            cursor.execute(*self._statement(some))

    def _cursor(self) -> CursorWrapper:
        return binding_cursor(self._using)

    def _statement(self, rows: Sequence[Row]) -> tuple[str, list[Any]]:
        arrays = ", ".join(f"%b::{kind}[]" for kind in self._types)
        defaults = "".join(f", %s::{kind}" for kind in self._default_types)
        statement = f"SELECT rows.*{defaults} FROM unnest({arrays}) AS rows"  # noqa: S608 - types
        return self._head + statement, [*self._defaults, *columns(rows)]


@lru_cache
def insert(model: type[models.Model], columns: tuple[str, ...], using: str) -> Insert:
    """Return the INSERT for these columns, made once for each database."""
    kind = ArrayInsert if connections[using].vendor == "postgresql" else Insert
    return kind(model, columns, using)


def binding_cursor(using: str) -> CursorWrapper:
    """Return a cursor of PostgreSQL that sends the values beside the statement."""
    from django.db.backends.postgresql.base import ServerBindingCursor

    connection = connections[using]
    connection.ensure_connection()
    make: Any = ServerBindingCursor
    cursor = make(connection.connection)
    if connection.queries_logged:
        return connection.make_debug_cursor(cursor)
    return connection.make_cursor(cursor)


def columns(rows: Sequence[Row]) -> list[list[Any]]:
    """Return the values of rows by column."""
    return [list(column) for column in zip(*rows, strict=True)]


def _default(field: models.Field[Any, Any], connection: BaseDatabaseWrapper) -> Any:
    """Return what a column has that is not said, as the driver takes it."""
    return field.get_db_prep_save(field.get_default(), connection)


def _key_column(model: type[models.Model]) -> str:
    column = model._meta.pk.column
    assert column
    return column


def _in_parts(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    for start in range(0, len(rows), _ROWS_IN_ONE_STATEMENT):
        yield rows[start : start + _ROWS_IN_ONE_STATEMENT]
