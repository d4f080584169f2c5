"""How soon a mail that comes alone is answered, and what it costs to wait for it."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Collection, Iterator, Sequence

from benchmarks.conversations import running_office
from benchmarks.crowd import ask, begin_mail, crowd
from benchmarks.footprint import PROC, processor_seconds
from benchmarks.harness import Program, Server, print_table
from benchmarks.load import CONTENT
from benchmarks.sink import Sink, running_sink

PAUSES = (0.05, 0.2)  # seconds between two mails: longer than it takes to become idle, and uneven
QUIET_AFTER = 3.0  # seconds after the last mail: it is settled then, and each heart has beaten


def measure(servers: Sequence[Server], seconds: float, mails: int) -> None:
    """Print how long single mails take from the final dot to the answer, on each server."""
    columns = [_figures(server, seconds, mails) for server in servers]
    rows = [
        ["from the final dot to the answer at the sink: median, ms", "50"],
        ["the same: 95th percentile, ms", ""],
        ["processor time in a second without mail, ms", "20"],
    ]
    print_table(
        f"{mails} mails, each alone: receiver, worker, relay",
        ["", *(server.name for server in servers), "at most"],
        [
            [name, *(f"{cell:.1f}" for cell in cells), bar]
            for (name, bar), *cells in zip(rows, *columns, strict=True)
        ],
    )


def _figures(server: Server, seconds: float, mails: int) -> list[float]:
    with running_sink() as sink, running_office(server, sink) as office:
        waits = list(_waits(office["receiver"].address, sink, mails))
        idle = _idle_milliseconds(office.values(), seconds) if PROC.exists() else math.nan
    cuts = statistics.quantiles(waits, n=20, method="inclusive")
    return [cuts[9] * 1000, cuts[18] * 1000, idle]


def _waits(receiver: str, sink: Sink, mails: int) -> Iterator[float]:
    """Send mails one by one, with pauses; yield in how many seconds each was answered."""
    with crowd(receiver, 1) as client:
        for number in range(mails):
            time.sleep(random.uniform(*PAUSES))
            begin_mail(client, f"reader-{number}@client.test", "talk@localhost")
            before, begin = sink.count, time.time()
            ask(client, CONTENT + b".\r\n", b"250")
            yield sink.wait_for(before + 1) - begin


def _idle_milliseconds(programs: Collection[Program], seconds: float) -> float:
    """What they take of the processors in a second in which there is nothing to do."""
    time.sleep(QUIET_AFTER)
    before = sum(processor_seconds(each.pid) for each in programs)
    time.sleep(seconds)
    after = sum(processor_seconds(each.pid) for each in programs)
    return (after - before) / seconds * 1000
