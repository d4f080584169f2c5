"""Duties: what is done at most now and then, by one process of all on all machines."""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.utils import timezone


class DutyQuerySet(models.QuerySet["Duty"]):
    def take(self, name: str, every: timedelta) -> bool:
        """Say whether the duty is the caller's: one of all who ask, once in that time.

        Part of the caller's transaction: if that is rolled back, the duty was not taken.
        """
        now = timezone.now()
        self.get_or_create(name=name, defaults={"due_at": now})
        if not self.filter(name=name, due_at__lte=now).exists():
            return False  # without a write, for which others would have to wait
        return bool(self.filter(name=name, due_at__lte=now).update(due_at=now + every))


class Duty(models.Model):
    """Something to be done again and again, and when it is due next."""

    name = models.CharField(max_length=48, primary_key=True)
    due_at = models.DateTimeField(default=timezone.now)

    objects = DutyQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "duties"

    def __str__(self) -> str:
        return self.name
