"""Celery: a wake-up is a task for any of its workers, and its beat sweeps, if there is one."""

from __future__ import annotations

from celery import current_app, shared_task

from mailapp.conf import mail_settings

from . import sweeper, turn


@shared_task(name="mailapp.drain", ignore_result=True)
def drain(queue: str) -> None:
    """Work what is due in `queue`."""
    turn.take(queue)


@shared_task(name="mailapp.sweep", ignore_result=True)
def sweep() -> None:
    """Find what a lost wake-up has left."""
    sweeper.sweep()


def send(queue: str) -> None:
    """Ask for one task, which is dropped if the sweeper will have asked for another."""
    drain.apply_async([queue], expires=mail_settings().POLL_SECONDS, retry=False)


current_app.add_periodic_task(
    mail_settings().POLL_SECONDS, sweep, name="mailapp.sweep", expires=mail_settings().POLL_SECONDS
)
