"""Excerpts of long lists, so that no page reads or counts a million rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.utils.functional import cached_property

from mailapp.counting import CAP, capped


class Excerpt:
    """The first rows of a queryset, for a section of a page, and where all of them are."""

    LENGTH = 100

    def __init__(self, queryset: QuerySet[Any], url: str = "") -> None:
        rows = list(queryset[: self.LENGTH + 1])
        self.rows = rows[: self.LENGTH]
        self.has_more = len(rows) > self.LENGTH
        self.url = url

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


class CappedPaginator(Paginator):
    """Pages through the first `CAP` rows. An index finds a page's ids, then its rows are read."""

    object_list: QuerySet[Any]

    @cached_property
    def _counted(self) -> int:
        return self.object_list.order_by()[: CAP + 1].count()

    @property
    def count(self) -> int:
        return min(self._counted, CAP)

    @property
    def counted(self) -> str:
        """The count for the eye, with a plus where it stopped."""
        return capped(self._counted)

    def page(self, number: int | str) -> Page:
        page = super().page(number)
        ids = self.object_list.values_list("pk", flat=True)
        first = (page.number - 1) * self.per_page
        page.object_list = self.object_list.filter(pk__in=list(ids[first : first + self.per_page]))
        return page
