"""Rows written without the cost of a model instance for each: the way in for every mail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from django.db import connections, models

_ROWS_IN_ONE_STATEMENT = 500


class Insert:
    """The INSERT of a model's rows, of which only some columns differ.

    The other columns have the model's defaults, so that what is written is what `bulk_create`
    writes, at a fraction of its time.
    """

    def __init__(self, model: type[models.Model], columns: Sequence[str], using: str) -> None:
        """`columns` are the columns that differ; their values must suit the database's driver."""
        connection = connections[using]
        same = [
            field
            for field in model._meta.concrete_fields
            if field.column not in columns and not isinstance(field, models.AutoField)
        ]
        defaults = [field.get_db_prep_save(field.get_default(), connection) for field in same]
        names = [*columns, *(field.column for field in same if field.column)]
        quote = connection.ops.quote_name
        assert model._meta.pk.column
        self._using = using
        self._defaults = tuple(defaults)
        self._row = f"({', '.join(['%s'] * len(names))})"
        self._returning = f" RETURNING {quote(model._meta.pk.column)}"
        table, listed = quote(model._meta.db_table), ", ".join(map(quote, names))
        self._head = f"INSERT INTO {table} ({listed}) VALUES "  # noqa: S608 - names of ours

    def rows(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert rows."""
        with connections[self._using].cursor() as cursor:
            for some in _in_parts(rows):
                cursor.execute(*self._statement(some))

    def returning_keys(self, rows: Sequence[tuple[Any, ...]]) -> list[int]:
        """Insert rows and return their primary keys in order."""
        keys: list[int] = []
        with connections[self._using].cursor() as cursor:
            for some in _in_parts(rows):
                statement, values = self._statement(some)
                cursor.execute(statement + self._returning, values)
                keys += [key for (key,) in cursor.fetchall()]
        return keys

    def _statement(self, rows: Sequence[tuple[Any, ...]]) -> tuple[str, list[Any]]:
        values = [value for row in rows for value in row + self._defaults]
        return self._head + ", ".join([self._row] * len(rows)), values


def _in_parts(rows: Sequence[tuple[Any, ...]]) -> Iterator[Sequence[tuple[Any, ...]]]:
    for start in range(0, len(rows), _ROWS_IN_ONE_STATEMENT):
        yield rows[start : start + _ROWS_IN_ONE_STATEMENT]


@lru_cache
def insert(model: type[models.Model], columns: tuple[str, ...], using: str) -> Insert:
    """Return the INSERT for these columns, made once for each database."""
    return Insert(model, columns, using)
