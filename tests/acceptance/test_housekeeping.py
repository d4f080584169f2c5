"""Old mail goes while a worker works, and by a command."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from django.utils import timezone

from mailapp.models import Delivery, Message, NewMail, Status
from tests.project import Project
from tests.waiting import wait_until


def store_old(project: Project) -> None:
    """Store a large mail that was done long ago."""
    mail = NewMail(raw=b"x" * 2_000_000, sender="", recipients=["old@localhost"], protocol="SMTP")
    project.query(Message).store([mail])  # type: ignore[attr-defined]
    long_ago = timezone.now() - timedelta(days=400)
    project.query(Delivery).update(status=Status.DONE, due_at=None, created_at=long_ago)


def test_worker_removes_old_mail(project: Callable[..., Project]) -> None:
    running = project()
    store_old(running)

    running.start("runmail", "--only", "worker", until="Removed 1 delivery")

    wait_until(lambda: not running.query(Message).exists())


def test_command_says_what_would_go_and_what_went(project: Callable[..., Project]) -> None:
    installation = project()
    store_old(installation)

    planned = installation.manage("cleanmail", "--dry-run")
    done = installation.manage("cleanmail")
    again = installation.manage("cleanmail")

    assert planned.stdout.startswith("Would remove 1 delivery\n")
    assert done.stdout.startswith("Removed 1 delivery\n")
    assert again.stdout.startswith("Removed 0 deliveries\n")
    assert not installation.query(Message).exists()
