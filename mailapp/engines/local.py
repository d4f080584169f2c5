"""The engine that is here already: workers of `runmail` or `runworker`, which listen."""

from __future__ import annotations

from mailapp import wakeup


def send(queue: str) -> None:
    """Wake the workers of `queue`."""
    wakeup.notify(queue)
