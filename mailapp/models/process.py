"""Running receivers, workers, relays and sweepers, and their heartbeats."""

from __future__ import annotations

import os
import socket
from datetime import datetime, timedelta
from typing import Self

from django.db import models
from django.utils import timezone

from mailapp.conf import mail_settings


class ProcessQuerySet(models.QuerySet["Process"]):
    def alive(self) -> Self:
        """Processes that have not stopped and whose heart beat lately."""
        return self.filter(stopped_at=None, heartbeat_at__gte=oldest_heartbeat())

    def dead(self) -> Self:
        """Processes that stopped, or fell silent for `DEAD_AFTER_SECONDS`."""
        return self.exclude(stopped_at=None, heartbeat_at__gte=oldest_heartbeat())

    def unended_here(self) -> Self:
        """Processes of this machine that have not said that they ended."""
        return self.filter(host=_this_host(), stopped_at=None)

    def killed_here(self, kind: str) -> list[Process]:
        """Processes of this machine that ended without saying so."""
        unended = self.unended_here().filter(kind=kind)
        return [process for process in unended if not _is_running(process.pid)]

    def start(self, kind: str, queue: str = "") -> Process:
        """Register this operating system process."""
        process = Process.here(kind, queue)
        process.save(using=self.db, force_insert=True)
        return process


def oldest_heartbeat() -> datetime:
    """A process whose heart beat last before that is dead."""
    return timezone.now() - timedelta(seconds=mail_settings().DEAD_AFTER_SECONDS)


def _this_host() -> str:
    return socket.gethostname()[:255]  # as much as its column holds


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it runs, but not as us
    return True


class Process(models.Model):
    """A running receiver, worker, relay or sweeper: where it is, its heartbeat, its work."""

    class Kind(models.TextChoices):
        RECEIVER = "receiver"
        WORKER = "worker"
        RELAY = "relay"
        SWEEPER = "sweeper"

    kind = models.CharField(max_length=16, choices=Kind)
    queue = models.CharField(max_length=64, blank=True)
    host = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    started_at = models.DateTimeField(default=timezone.now)
    heartbeat_at = models.DateTimeField(default=timezone.now, db_index=True)
    stopped_at = models.DateTimeField(null=True, blank=True)
    activity = models.CharField(max_length=255, blank=True)  #: once it died, how it ended

    objects = ProcessQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "processes"

    def __str__(self) -> str:
        return f"{self.kind} {self.pid} on {self.host}"

    @classmethod
    def here(cls, kind: str, queue: str = "") -> Process:
        """This operating system process, not yet registered."""
        return cls(kind=kind, queue=queue, host=_this_host(), pid=os.getpid())

    @property
    def is_alive(self) -> bool:
        """As `ProcessQuerySet.alive` says."""
        return self.stopped_at is None and self.heartbeat_at >= oldest_heartbeat()

    @property
    def ending(self) -> str:
        """How the process ended, as its supervisor saw it; "" while it lives, or in good order."""
        return self.activity if self.stopped_at else ""

    def beat(self, activity: str = "") -> None:
        """Say that the process is alive and what it works on."""
        self.heartbeat_at = timezone.now()
        self.activity = activity[:255]
        self.save(update_fields=["heartbeat_at", "activity"])

    def begin(self) -> None:
        """Say that the process works, for the first time or again."""
        self.heartbeat_at, self.stopped_at = timezone.now(), None
        self.save()

    def stop(self) -> None:
        """Say that the process ended in good order."""
        self.activity = ""
        self.mark_stopped()

    def mark_stopped(self) -> None:
        """Say that the process ended, so that its claims are free at once."""
        self.stopped_at = timezone.now()
        self.save(update_fields=["stopped_at", "activity"])
