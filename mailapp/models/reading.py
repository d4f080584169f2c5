"""Rows read by their keys in plain SQL: the ORM takes longer to word it than to read a few."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeVar

from django.db import models

Row = TypeVar("Row", bound=models.Model)


def read(rows: models.QuerySet[Row], statement: str, keys: Collection[int]) -> dict[Any, Row]:
    """Return the rows that `statement` selects, with `{ids}` for the keys, by primary key."""
    if not keys:
        return {}
    return {row.pk: row for row in rows.raw(*with_ids(statement, [], keys))}


def with_ids(statement: str, values: list[Any], ids: Collection[int]) -> tuple[str, list[Any]]:
    """Return a statement with a place for each of the ids in that of `{ids}`, and its values."""
    return statement.replace("{ids}", ", ".join(["%s"] * len(ids))), [*values, *ids]
