"""Django Tasks: a wake-up is a task of the backend that `TASKS` names as its default."""

from __future__ import annotations

import django

from . import turn

if django.VERSION >= (6, 0):
    from django.tasks import task
else:
    from django_tasks import task  # type: ignore[no-redef]


@task
def drain(queue: str) -> None:
    """Work what is due in `queue`."""
    turn.take(queue)


def send(queue: str) -> None:
    """Ask for one task."""
    drain.enqueue(queue)
