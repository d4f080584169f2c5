"""What memory and processor time a program takes, with all its children, by Linux's /proc."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
NOW, PEAK = "VmRSS", "VmHWM"  #: resident memory, and the most that it ever was


def megabytes(pid: int, what: str) -> float:
    """Return the sum for a process and all that descend from it. Memory they share counts twice."""
    return sum(_kilobytes(each, what) for each in tree(pid)) * 1024 / 1e6


def processor_seconds(pid: int) -> float:
    """Return what a process and all that descend from it have used so far."""
    return sum(map(_ticks, tree(pid))) / os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> Iterator[int]:
    """Yield a process and all that descend from it."""
    yield pid
    for children in PROC.glob(f"{pid}/task/*/children"):
        for child in children.read_text().split():
            yield from tree(int(child))


def _kilobytes(pid: int, what: str) -> int:
    found = re.search(rf"^{what}:\s+(\d+) kB$", (PROC / f"{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0  # a child that has ended has none


def _ticks(pid: int) -> int:
    _, _, after_name = (PROC / f"{pid}/stat").read_text().rpartition(")")
    user, system = after_name.split()[11:13]
    return int(user) + int(system)
