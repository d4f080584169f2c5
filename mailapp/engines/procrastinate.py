"""Procrastinate: a wake-up is a job in PostgreSQL, of which at most one waits for each queue."""

from __future__ import annotations

import contextlib

from procrastinate.contrib.django import app
from procrastinate.exceptions import AlreadyEnqueued

from . import sweeper, turn


@app.task(name="mailapp.drain")
def drain(queue: str) -> None:
    """Work what is due in `queue`."""
    turn.take(queue)


@app.periodic(cron="* * * * *")
@app.task(name="mailapp.sweep")
def sweep(timestamp: int) -> None:
    """Find what a lost wake-up has left."""
    sweeper.sweep()


def send(queue: str) -> None:
    """Ask for one job."""
    with contextlib.suppress(AlreadyEnqueued):
        drain.configure(queueing_lock=f"mailapp.drain.{queue}").defer(queue=queue)
