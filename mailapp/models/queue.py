"""Queues: named streams of deliveries."""

from __future__ import annotations

from datetime import timedelta
from typing import Self

from django.core.validators import validate_slug
from django.db import models
from django.db.models import Q
from django.utils import timezone

from mailapp.conf import mail_settings

OUTGOING = "outgoing"
UNDELIVERABLE = "undeliverable"


class QueueQuerySet(models.QuerySet["Queue"]):
    def handled(self) -> Self:
        """Queues that handlers work, and that are not paused."""
        return self.filter(purpose=Queue.Purpose.HANDLERS, paused=False)

    def asleep(self) -> Self:
        """Queues whose engine has looked since its last wake-up, or must have lost that."""
        now, poll = timezone.now(), timedelta(seconds=mail_settings().POLL_SECONDS)
        # A clock may have been set back.
        lost = Q(woken_at__lt=now - poll) | Q(woken_at__gt=now + poll)
        return self.filter(Q(woken_at=None) | lost)


class Queue(models.Model):
    """A named stream of deliveries: to handlers, to the relay, or held."""

    class Purpose(models.TextChoices):
        HANDLERS = "handlers", "worked by handlers"
        RELAY = "relay", "sent by the relay"
        HELD = "held", "held for an operator"

    # Short and plain, since a PostgreSQL channel and a socket's file are named after it.
    name = models.CharField(max_length=48, primary_key=True, validators=[validate_slug])
    purpose = models.CharField(max_length=16, choices=Purpose, default=Purpose.HANDLERS)
    paused = models.BooleanField(
        default=False, help_text="A paused queue takes mail in, but nothing is claimed from it."
    )
    description = models.TextField(blank=True)
    woken_at = models.DateTimeField(
        null=True,
        blank=True,
        editable=False,
        help_text="When an engine was told of due mail, until it looks.",
    )

    objects = QueueQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        permissions = [("pause_queue", "Can pause and resume queue")]

    def __str__(self) -> str:
        return self.name

    def pause(self) -> None:
        self.paused = True
        self.save(update_fields=["paused"])

    def resume(self) -> None:
        self.paused = False
        self.save(update_fields=["paused"])
