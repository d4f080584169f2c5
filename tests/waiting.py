"""Wait for a condition, never for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

DEADLINE = 60.0  #: seconds; generous, since it is only spent when something is broken


def wait_until(condition: Callable[[], Value], seconds: float = DEADLINE) -> Value:
    """Return what `condition` returns once that is true; fail at the deadline."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"{condition} stayed {value!r} for {seconds} seconds"
        time.sleep(0.02)
    return value
