"""Locks on files, which a process holds as long as it lives, and which tell that it does."""

from __future__ import annotations

import fcntl
import time
from typing import IO

_LOOK_SECONDS = 0.05


def hold(file: IO[bytes] | int) -> None:
    """Lock a file until it is closed or the process ends, however it does; wait for the lock."""
    fcntl.flock(file, fcntl.LOCK_EX)


def let_go(file: IO[bytes]) -> None:
    """Let others lock a file that `hold` has locked."""
    fcntl.flock(file, fcntl.LOCK_UN)


def hold_if_free(file: IO[bytes]) -> bool:
    """Lock a file as `hold` does, unless somebody else holds it; say whether it is ours now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def hold_within(file: IO[bytes], seconds: float) -> bool:
    """Lock a file as `hold` does, but wait at most so long; say whether it is ours now."""
    end = time.monotonic() + seconds
    while not (ours := hold_if_free(file)) and time.monotonic() < end:
        time.sleep(_LOOK_SECONDS)
    return ours
