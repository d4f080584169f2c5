"""Rows read by their keys in plain SQL: the ORM takes longer to word it than to read a few."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Generic, TypeVar

from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.base import ModelState
from django.utils import timezone

Row = TypeVar("Row", bound=models.Model)


def read(rows: models.QuerySet[Row], statement: str, keys: Collection[int]) -> dict[Any, Row]:
    """Return the rows that `statement` selects, with `{ids}` for the keys, by primary key.

    A column that is no field of the model becomes an attribute.
    """
    if not keys:
        return {}
    connection = connections[rows.db]
    with connection.cursor() as cursor:
        cursor.execute(*with_ids(statement, [], keys))
        reader = _reader(rows.model, tuple(column[0] for column in cursor.description))
        found = [reader.instance(values, connection) for values in cursor.fetchall()]
    return {row.pk: row for row in found}


def with_ids(
    statement: str, values: list[Any], ids: Collection[int] | Collection[str]
) -> tuple[str, list[Any]]:
    """Put a place for each of the ids into that of `{ids}`, the last; return it with its values."""
    return statement.replace("{ids}", ", ".join(["%s"] * len(ids))), [*values, *ids]


def moment(read: datetime, connection: BaseDatabaseWrapper) -> datetime:
    """Return a time as a database has it, with its zone."""
    return read if read.tzinfo else timezone.make_aware(read, connection.timezone)


def token(read: uuid.UUID | str, connection: BaseDatabaseWrapper) -> uuid.UUID:
    """Return a UUID as a database has it."""
    return uuid.UUID(read) if isinstance(read, str) else read


class _Reader(Generic[Row]):
    """Makes instances of a model of what is read for some columns.

    As unpickling does: without `__init__` and its signals, which would take most of the time.
    """

    def __init__(self, model: type[Row], columns: Sequence[str]) -> None:
        fields = {field.column: field for field in model._meta.concrete_fields}
        self._model = model
        self._names = [fields[each].attname if each in fields else each for each in columns]
        converters = [(at, _converter(fields.get(each))) for at, each in enumerate(columns)]
        self._converters = [(at, convert) for at, convert in converters if convert]

    def instance(self, read: Sequence[Any], connection: BaseDatabaseWrapper) -> Row:
        values = list(read)
        for at, convert in self._converters:
            if values[at] is not None:
                values[at] = convert(values[at], connection)
        state = ModelState()
        state.adding, state.db = False, connection.alias
        instance = self._model.__new__(self._model)
        vars(instance).update(zip(self._names, values, strict=True), _state=state)
        return instance


_reader = lru_cache(_Reader)


def _converter(
    field: models.Field[Any, Any] | None,
) -> Callable[[Any, BaseDatabaseWrapper], Any] | None:
    """What a value that is not NULL goes through, on one database or the other."""
    if isinstance(field, models.DateTimeField):
        return moment
    if isinstance(field, models.UUIDField):
        return token
    if isinstance(field, models.BooleanField):
        return lambda read, connection: bool(read)
    if isinstance(field, models.JSONField):
        nowhere: Any = None  # in a query, which matters for parts of a value alone
        return lambda read, connection: field.from_db_value(read, nowhere, connection)
    return None
