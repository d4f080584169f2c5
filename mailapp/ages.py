"""How long something took or is ago, in words."""

from __future__ import annotations

from datetime import datetime

from django.utils import timezone


def distance(at: datetime) -> str:
    """Say how far from now `at` is: `3 min ago`, `in 2 h`, `just now`."""
    seconds = (timezone.now() - at).total_seconds()
    if abs(seconds) < 1:
        return "just now"
    return f"{duration(seconds)} ago" if seconds >= 0 else f"in {duration(-seconds)}"


_UNITS = [(86400 * 2, 86400, "d"), (3600 * 2, 3600, "h"), (120, 60, "min"), (10, 1, "s")]


def duration(seconds: float) -> str:
    """Write a time span in its largest fitting unit.

    >>> duration(0.0123), duration(2.34), duration(59), duration(7300)
    ('12 ms', '2.3 s', '59 s', '2 h')
    """
    for least, size, unit in _UNITS:
        if seconds >= least:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
