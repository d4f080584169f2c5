"""Handler modules as rows: the code stays in git, the choice stays in the admin."""

from __future__ import annotations

from typing import Self

from django.db import models


class HandlerQuerySet(models.QuerySet["Handler"]):
    def enabled(self) -> Self:
        return self.filter(enabled=True, found=True)


class Handler(models.Model):
    """A module of state functions: its place in the order, on or off.

    Rows are made for new modules at `migrate` and at start, and never deleted.
    """

    module = models.CharField(max_length=255, unique=True)
    order = models.IntegerField(
        default=100, help_text="Handlers are asked from the lowest number to the highest."
    )
    enabled = models.BooleanField(default=True)
    found = models.BooleanField(
        default=True, editable=False, help_text="Its module exists in an installed app."
    )
    description = models.TextField(blank=True)

    objects = HandlerQuerySet.as_manager()

    class Meta:
        ordering = ["order", "module"]

    def __str__(self) -> str:
        return self.module
