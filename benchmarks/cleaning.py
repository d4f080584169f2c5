"""How long a client waits for its 250 while `cleanmail` removes what is old."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence

from benchmarks.crowd import ask, begin_mail, crowd
from benchmarks.harness import Server, installation, print_table
from benchmarks.load import CONTENT

DAYS = 40  # more than what is done is kept
PAUSES = (0.0, 0.02)  # seconds between two mails


def measure(servers: Sequence[Server], seconds: float, old: int) -> None:
    """Print how long clients wait with nothing else to do, and while mails are removed."""
    rows = [row for server in servers for row in _rows(server, seconds, old)]
    print_table(
        f"from the final dot to the 250, ms, and while `cleanmail` removes {old:,} mails",
        ["", "median", "99th percentile", "at most", "longest"],
        rows,
    )


def _rows(server: Server, seconds: float, old: int) -> list[list[str]]:
    with installation(server) as ours:
        ours.run("-m", "benchmarks.fill", str(old), str(DAYS))
        with ours.part("receiver") as receiver:
            end = time.monotonic() + seconds
            alone = _waits(receiver.address, lambda: time.monotonic() < end)
            with ours.background("manage.py", "cleanmail") as cleaning:
                meanwhile = _waits(receiver.address, lambda: cleaning.poll() is None)
    return [
        [f"{server.name}, nothing else", *_figures(alone, "")],
        [f"{server.name}, removing", *_figures(meanwhile, "100")],
    ]


def _waits(receiver: str, going_on: Callable[[], bool]) -> list[float]:
    """Send mails one by one while it goes on; return in how many seconds each was answered."""
    waits = []
    with crowd(receiver, 1) as client:
        while going_on() or len(waits) < 2:
            time.sleep(random.uniform(*PAUSES))
            begin_mail(client, "reader@client.test", "note@localhost")
            begin = time.perf_counter()
            ask(client, CONTENT + b".\r\n", b"250")
            waits.append(time.perf_counter() - begin)
    return waits


def _figures(waits: Sequence[float], bar: str) -> list[str]:
    cuts = statistics.quantiles(waits, n=100, method="inclusive")
    median, ninety_ninth, longest = (
        f"{each * 1000:.1f}" for each in (cuts[49], cuts[98], max(waits))
    )
    return [median, ninety_ninth, bar, longest]
