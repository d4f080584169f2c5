"""What a failure becomes: whether and when it is tried again, and what the operator reads of it."""

from __future__ import annotations

import random
import traceback
from typing import Any

from django.db import OperationalError, connection

from mailapp import containment, mime
from mailapp.conf import mail_settings
from mailapp.errors import SMTPError, TransactionLeft

MOST_LOST = 3  #: tries that may end with their process

_LONGEST_TRACEBACK = 20_000


def most_tries() -> int:
    """How often something is tried."""
    return len(mail_settings().RETRY_SECONDS) + 1


def pause(tries: int) -> float:
    """Seconds to wait after so many tries, with a tenth of jitter, lest failures march in step."""
    return mail_settings().RETRY_SECONDS[tries - 1] * random.uniform(0.9, 1.1)


def in_one_line(error: BaseException) -> str:
    """Say what was raised; of an SMTPError, its reply."""
    if isinstance(error, SMTPError):
        return error.reply
    last = traceback.format_exception_only(error)[-1]  # it knows errors whose text raises, too
    return mime.one_line(last.removeprefix(f"{type(error).__module__}."))[:500]


def in_full(error: BaseException) -> str:
    """Return the end of the traceback, fit for a database."""
    text = "".join(traceback.format_exception(error))
    return (
        text.replace("\0", "\\0").encode(errors="backslashreplace").decode()[-_LONGEST_TRACEBACK:]
    )


def is_deadlock(error: BaseException) -> bool:
    """Say whether PostgreSQL has undone this because of another transaction (SQLSTATE class 40)."""
    state = getattr(error.__cause__, "sqlstate", None)
    return isinstance(error, OperationalError) and str(state).startswith("40")


def make_way_after(error: BaseException) -> None:
    """Have this process end in good order if the handler may have left harm in it."""
    if isinstance(error, MemoryError):
        containment.make_way('A handler took more than MAIL["WORKER_MEMORY"]')
    elif isinstance(error, TransactionLeft):
        containment.make_way("A handler has begun a transaction and never ended it")


def let_hooks_fail_alone() -> None:
    """Have Django log what an on_commit function raises, and call the others all the same."""
    hooks: list[Any] = connection.run_on_commit
    hooks[:] = [(ids, hook, True) for ids, hook, _ in hooks]
