"""Wait for a condition, never for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

DEADLINE = 60.0  #: seconds; generous, since it is only spent when something is broken

# Seconds between two looks, of which each takes time from what is waited for.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.05


def wait_until(condition: Callable[[], Value], seconds: float = DEADLINE) -> Value:
    """Return what `condition` returns once that is true; fail at the deadline."""
    end = time.monotonic() + seconds
    pause = _FIRST_PAUSE
    while not (value := condition()):
        assert time.monotonic() < end, f"{condition} stayed {value!r} for {seconds} seconds"
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    return value
