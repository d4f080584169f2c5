"""When the relay tries again, and when it gives up. No query, no network."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from time import monotonic

from mailapp.conf import mail_settings
from mailapp.models import Delivery


def is_expired(delivery: Delivery, now: datetime) -> bool:
    """Say whether a delivery is so old that a temporary failure is its last."""
    return _seconds_left(delivery, now) <= 0


def is_late(delivery: Delivery, now: datetime) -> bool:
    """Say whether a delivery waits for so long that its sender wants to know."""
    seconds = mail_settings().DELAY_NOTICE_SECONDS
    return bool(seconds) and (now - delivery.created_at).total_seconds() >= seconds


def delay(delivery: Delivery, now: datetime) -> float:
    """Seconds until the next try: by the number of tries, with jitter, the last in good time."""
    waits = mail_settings().RELAY_RETRY_SECONDS
    wait = waits[min(delivery.tries, len(waits)) - 1] * random.uniform(1, 1.1)
    return min(wait, _seconds_left(delivery, now))


def gives_up_at(delivery: Delivery) -> datetime:
    """From then on a temporary failure is the last."""
    return delivery.created_at + timedelta(seconds=mail_settings().RELAY_GIVE_UP_SECONDS)


def _seconds_left(delivery: Delivery, now: datetime) -> float:
    return (gives_up_at(delivery) - now).total_seconds()


class Rest:
    """How long a smart host in trouble is left alone: longer each time, until it is well."""

    def __init__(self, steps: Sequence[float]) -> None:
        self._steps = steps
        self._troubles = 0
        self._until = 0.0

    def begin(self) -> None:
        """Rest for the next step."""
        seconds = self._steps[min(self._troubles, len(self._steps) - 1)]
        self._troubles += 1
        self._until = monotonic() + seconds

    def interrupt(self) -> None:
        """It seems to be well; if it is not, the next rest is longer all the same."""
        self._until = 0.0

    def end(self) -> None:
        """All is well: there is no need to rest, and the next time it is for short."""
        self._troubles, self._until = 0, 0.0

    @property
    def was_needed(self) -> bool:
        """True after a rest, until all is well."""
        return self._troubles > 0

    @property
    def remaining(self) -> float:
        """Seconds until the smart host may be tried again; 0 when it may be now."""
        return max(self._until - monotonic(), 0)
