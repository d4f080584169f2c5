"""Timers: what runs when a conversation has been in one state for too long."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Self

from django.db import models
from django.db.models import Exists, F, OuterRef, Q
from django.utils import timezone

from mailapp.routing import INCOMING

from .conversation import Conversation
from .delivery import Delivery
from .handler import Handler
from .outcome import UNENDED
from .process import Process
from .queue import Queue


class TimerQuerySet(models.QuerySet["Timer"]):
    def due(self, now: datetime | None = None) -> Self:
        """Timers whose time has come, the earliest first."""
        return self.filter(due_at__lte=now or timezone.now()).order_by("due_at", "id")

    def held(self) -> Self:
        """Timers whose function failed at every try."""
        return self.filter(due_at__isnull=True)

    def free(self, process: Process) -> Self:
        """Timers that nothing keeps `process` from running.

        No other living process runs it, its handler is switched on, the incoming queue is not
        paused, and no mail that came from the person before it was due is still to be worked.
        """
        others = Process.objects.alive().exclude(pk=process.pk)
        came_before = Delivery.objects.filter(
            queue=INCOMING,
            status__in=UNENDED,
            person=OuterRef("conversation__person"),
            created_at__lt=OuterRef("due_at"),
        )
        return self.exclude(claimed_by__in=others).filter(
            ~Exists(came_before),
            Exists(Queue.objects.filter(name=INCOMING, paused=False)),
            # Not `in`, or SQLite without statistics goes through all that the handlers ever had.
            Exists(Handler.objects.enabled().filter(pk=OuterRef("conversation__handler"))),
        )

    def retry(self) -> int:
        """Have held timers run now; a new series of tries begins."""
        return self.held().update(due_at=timezone.now(), tries=0, lost=0)

    def discard(self) -> int:
        """Drop held timers; their conversations stay where they are."""
        return self.held().delete()[0]


class Timer(models.Model):
    """A function that runs at a moment, if the conversation has not left its state by then.

    The row is made with the move into the state, and is gone with the move out of it or when
    the function has run. While a process runs it, it names the process; one whose process died
    is due as before.
    """

    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="timers")
    state = models.CharField(max_length=100)
    function = models.CharField(max_length=100, help_text="Its name in the handler module.")
    due_at = models.DateTimeField(
        null=True, blank=True, help_text="When it runs next; unset once the last try failed."
    )
    tries = models.PositiveIntegerField(default=0)
    lost = models.PositiveIntegerField(default=0, help_text="Tries that ended with their process.")
    claimed_by = models.ForeignKey(
        Process, on_delete=models.SET_NULL, null=True, blank=True, db_index=False
    )
    reply = models.TextField(blank=True, help_text="Why the last try failed, in one line.")
    error = models.TextField(blank=True, help_text="Its traceback.")

    objects = TimerQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        permissions = [("retry_timer", "Can retry timer"), ("discard_timer", "Can discard timer")]
        indexes = [
            models.Index(
                fields=["due_at", "id"],
                condition=Q(due_at__isnull=False),
                name="mailapp_timer_due",
            ),
            models.Index(
                fields=["id"], condition=Q(due_at__isnull=True), name="mailapp_timer_held"
            ),
            models.Index(
                fields=["claimed_by"],
                condition=Q(claimed_by__isnull=False),
                name="mailapp_timer_claimant",  # or to remove a process would read the table
            ),
        ]

    def __str__(self) -> str:
        return f"{self.function} after {self.state}"

    @property
    def is_stale(self) -> bool:
        """True when its conversation left the state while the code had no timers for that."""
        return self.conversation.state != self.state

    def claim(self, process: Process) -> Timer | None:
        """Take it as it was read and count the try; None when somebody was quicker.

        Committed before it returns. It comes with its conversation as that is now: whoever
        moves that from here on makes the run void.
        """
        died = self.claimed_by_id not in (None, process.pk)
        changed = self._as_read().update(
            claimed_by=process, tries=F("tries") + 1, lost=F("lost") + int(died)
        )
        mine = Timer.objects.filter(pk=self.pk, claimed_by=process)
        return mine.select_related("conversation__handler").first() if changed else None

    def defer(self, seconds: float, reply: str, error: str) -> None:
        """Have it run again later, unless the claim was lost."""
        due_at = timezone.now() + timedelta(seconds=seconds)
        self._as_read().update(due_at=due_at, claimed_by=None, reply=reply, error=error)

    def hold(self, reply: str, error: str) -> None:
        """Leave it to an operator, unless the claim was lost."""
        self._as_read().update(due_at=None, claimed_by=None, reply=reply, error=error)

    def give_back(self) -> None:
        """Take back a try that does not count, unless the claim was lost."""
        self._as_read().update(claimed_by=None, tries=self.tries - 1)

    def _as_read(self) -> TimerQuerySet:
        """This row, unless somebody has claimed or settled it meanwhile."""
        return Timer.objects.filter(
            pk=self.pk, claimed_by=self.claimed_by_id, due_at=self.due_at, tries=self.tries
        )
