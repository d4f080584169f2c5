"""Locks on files, which a process holds as long as it lives, and which tell that it does."""

from __future__ import annotations

import fcntl
from typing import IO


def hold(file: IO[bytes]) -> None:
    """Lock a file until it is closed or the process ends, however it does; wait for the lock."""
    fcntl.flock(file, fcntl.LOCK_EX)


def is_free(file: IO[bytes]) -> bool:
    """Lock a file as `hold` does, unless somebody else holds it; say whether it is ours now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
