"""Whether a mail costs more where many are stored already, with as many conversations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from benchmarks.backlog import TALK, drainer
from benchmarks.harness import (
    Installation,
    Server,
    fixed_medians,
    installation,
    medians,
    print_table,
)
from benchmarks.load import KEPT, converse

LOAD = replace(KEPT, recipient="note-{group}@localhost")
BAR = 0.90
EMPTY, FULL = "nothing stored", "{:,} stored"


def measure(servers: Sequence[Server], seconds: float, stored: int, backlog: int) -> None:
    """Print how many mails a second are drained and received with nothing stored, and with much."""
    drained, received = [], []
    for server in servers:
        with installation(server) as empty, installation(server) as full:
            full.run("-m", "benchmarks.fill", str(stored), "0")
            drained.append(_row(server, _drained(empty, full, backlog)))  # leaves nothing due
            received.append(_row(server, _received(empty, full, seconds)))
    header = ["", EMPTY, FULL.format(stored), "ratio", "at least"]
    print_table(f"draining a backlog of {backlog:,}, messages per second", header, drained)
    print_table(f"{LOAD.name}, messages per second", header, received)


def _row(server: Server, rates: dict[str, float]) -> list[str]:
    empty, full = rates[EMPTY], rates[FULL]
    return [server.name, f"{empty:.0f}", f"{full:.0f}", f"{full / empty:.2f}", f"{BAR:.2f}"]


def _drained(empty: Installation, full: Installation, backlog: int) -> dict[str, float]:
    return fixed_medians(
        {
            name: (drainer(ours, TALK, workers=1), backlog)
            for name, ours in ((EMPTY, empty), (FULL, full))
        }
    )


def _received(empty: Installation, full: Installation, seconds: float) -> dict[str, float]:
    with empty.part("receiver") as to_empty, full.part("receiver") as to_full:
        return medians({EMPTY: _sender(to_empty.address), FULL: _sender(to_full.address)}, seconds)


def _sender(address: str) -> Callable[[int], float]:
    return lambda count: converse(address, LOAD, count).seconds
