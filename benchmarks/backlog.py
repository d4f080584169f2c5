"""How fast the worker drains a backlog, next to the same work by hand, a transaction each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.harness import Installation, Server, installation, medians, print_table

BY_HAND, WORKER = "state and answer, by hand", "state and answer, worker"
WAYS = {
    BY_HAND: ("by-hand", "talk@localhost"),
    WORKER: ("worker", "talk@localhost"),
    "stateless, worker": ("worker", "note@localhost"),
}
BAR = 4


def measure(servers: Sequence[Server], seconds: float) -> None:
    """Print how many mails a second are drained, on each server."""
    columns = []
    for server in servers:
        with installation(server) as ours:
            columns.append(
                medians({name: _drainer(ours, *way) for name, way in WAYS.items()}, seconds)
            )
    rows = [[name, *(f"{column[name]:.0f}" for column in columns)] for name in WAYS]
    ratios = [f"{column[WORKER] / column[BY_HAND]:.2f}" for column in columns]
    rows.append([f"worker to by hand, at least {BAR}", *ratios])
    print_table(
        "draining a backlog, messages per second", ["", *(server.name for server in servers)], rows
    )


def _drainer(ours: Installation, way: str, recipient: str) -> Callable[[int], float]:
    return lambda count: float(ours.run("-m", "benchmarks.drain", way, recipient, str(count)))
