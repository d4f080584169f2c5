"""Whether a mail costs more where many are stored already."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from benchmarks.harness import Server, installation, medians, print_table
from benchmarks.load import KEPT, converse

LOAD = replace(KEPT, recipient="note-{group}@localhost")
BAR = 0.90


def measure(servers: Sequence[Server], seconds: float, stored: int) -> None:
    """Print how many mails a second are received with nothing stored, and with so many mails."""
    rows = [[server.name, *_cells(server, seconds, stored), f"{BAR:.2f}"] for server in servers]
    print_table(
        f"{LOAD.name}, messages per second",
        ["", "nothing stored", f"{stored:,} stored", "ratio", "at least"],
        rows,
    )


def _cells(server: Server, seconds: float, stored: int) -> list[str]:
    with _sender(server) as empty, _sender(server, stored) as full:
        rates = medians({"empty": empty, "full": full}, seconds)
    ratio = rates["full"] / rates["empty"]
    return [f"{rates['empty']:.0f}", f"{rates['full']:.0f}", f"{ratio:.2f}"]


@contextlib.contextmanager
def _sender(server: Server, stored: int = 0) -> Iterator[Callable[[int], float]]:
    """Run a receiver on a database with so many mails; yield what sends to it."""
    with installation(server) as ours:
        if stored:
            ours.run("-m", "benchmarks.fill", str(stored))
        with ours.part("receiver") as receiver:
            yield lambda count: converse(receiver.address, LOAD, count).seconds
