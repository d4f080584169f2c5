"""Goes wrong in each way that there is; the recipient says in which."""

from __future__ import annotations

import itertools
import os
import re
import signal
import sys
import time
from collections.abc import Callable

from django.db import transaction

from mailapp.request import MailRequest
from mailapp.routing import route

_HOURS = 3600.0


def _raise() -> None:
    raise LookupError


def _match_for_years() -> None:
    re.match("(a+)+b", "a" * 100)


def _stay_in_c_code() -> None:
    sum(itertools.repeat(0))


def _hoard() -> None:
    bytearray(1 << 30)


def _begin_a_transaction() -> None:
    transaction.atomic().__enter__()


def _sleep_with_the_clock_stopped() -> None:
    signal.alarm(0)  # as after a time limit of its own
    time.sleep(_HOURS)


_WAYS: dict[str, Callable[[], object]] = {
    "raise": _raise,
    "leave": sys.exit,
    "exit": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "sleep": _sleep_with_the_clock_stopped,
    "match": _match_for_years,
    "stay": _stay_in_c_code,
    "hoard": _hoard,
    "begin": _begin_a_transaction,
}


@route("mail-fail-(way)@(host)", way="[a-z]+")
def START(message: MailRequest, way: str, host: str) -> None:
    _WAYS[way]()
