"""What a worker may take: time for each handler, and memory. The kernel holds it to both.

So it ends, too, where it is stuck in C code and no other thread of Python can run. Only for a
process that does nothing else.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import resource
import signal
from collections.abc import Iterator, Sequence

from mailapp.conf import mail_settings
from mailapp.inhand import InHand

logger = logging.getLogger(__name__)

OUT_OF_TIME, _TIMER = signal.SIGALRM, signal.ITIMER_REAL

_SLOW = 3.0  # seconds, or less where a handler has less than a minute
_SLOW_SHARE = 0.05  # of a handler's time

_contained = False
_in_hand: InHand | None = None
_was_slow = False


def contain() -> None:
    """Limit this process for good, by `HANDLER_SECONDS` and `WORKER_MEMORY`."""
    global _contained
    faulthandler.register(OUT_OF_TIME, chain=True)  # say where it hangs, then die of the signal
    _limit_memory(mail_settings().WORKER_MEMORY)
    _contained = True


def _limit_memory(octets: int) -> None:
    # Not the address space, of which threads and files take much that is never memory.
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    if octets and (most == resource.RLIM_INFINITY or octets < most):
        resource.setrlimit(resource.RLIMIT_DATA, (octets, most))


def slow_seconds() -> float:
    """How long a handler may take before nobody waits for it any more."""
    conf = mail_settings()
    return max(conf.BATCH_SECONDS, min(_SLOW, _SLOW_SHARE * conf.HANDLER_SECONDS))


def show_to_supervisor(fd: int) -> None:
    """Tell the supervisor from now on, by the memory that it shares, what is in hand."""
    global _in_hand
    _in_hand = InHand(fd)


def take(batch: Sequence[int]) -> None:
    """Say which deliveries will be worked, in this order."""
    if _in_hand:
        _in_hand.take(batch)


def rest() -> None:
    """Say that the handlers have returned: what they caused is stored, which may take its time."""
    global _was_slow
    if _in_hand:
        _was_slow = is_slow()
        _in_hand.end()


def is_slow() -> bool:
    """Say whether the handler that was begun last has taken so long that nobody waits for it."""
    return _in_hand is not None and (_was_slow or _in_hand.seconds > slow_seconds())


@contextlib.contextmanager
def timed() -> Iterator[None]:
    """Stop, at the end of the block, the clock that was started last within it."""
    global _was_slow
    try:
        yield
    finally:
        _set_clock(0)
        _was_slow = False
        if _in_hand:
            _in_hand.end()


def start_clock(delivery: int = 0) -> None:
    """Give the next handler its time, after which the process is killed; forget the last one's."""
    global _was_slow
    _set_clock(mail_settings().HANDLER_SECONDS)
    _was_slow = False
    if _in_hand:
        _in_hand.begin(delivery)


def _set_clock(seconds: float) -> None:
    if _contained:
        signal.setitimer(_TIMER, seconds)


def make_way(reason: str) -> None:
    """Have this process end in good order, since what a handler has left in it may stay there."""
    if _contained:
        logger.error("%s; this worker makes way", reason)
        os.kill(os.getpid(), signal.SIGTERM)


def is_over(seconds: float) -> bool:
    """Say whether a handler runs for longer than it may, since it has stopped the clock itself."""
    return seconds > mail_settings().HANDLER_SECONDS + slow_seconds()


def ending(code: int) -> str:
    """Say how a process ended, by its exit code as `subprocess` has it."""
    if code == -OUT_OF_TIME:
        return "a handler ran out of time"
    if code < 0:
        return f"signal {-code}, {signal.strsignal(-code)}"
    return f"exit code {code}"
