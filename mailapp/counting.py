"""Counts that stop early, so that nobody who looks counts a million rows."""

from __future__ import annotations

from typing import Any

from django.db.models import IntegerField, QuerySet, Subquery

CAP = 10_000  #: what is more than this is "10000+"


def capped(count: int) -> str:
    """Write a count that stopped at one more than `CAP`.

    >>> capped(7), capped(10_001)
    ('7', '10000+')
    """
    return str(count) if count <= CAP else f"{CAP}+"


class CappedCount(Subquery):
    """The number of rows of a related queryset, counted no further than `CAP` and one."""

    template = "(SELECT COUNT(*) FROM (%(subquery)s) counted)"
    output_field = IntegerField()

    def __init__(self, queryset: QuerySet[Any]) -> None:
        super().__init__(queryset.order_by().values("pk")[: CAP + 1])
