"""How fast the worker drains a backlog, next to a bare loop of one ORM transaction each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.harness import Installation, Server, installation, medians, print_table

WAYS = {
    "bare loop, one transaction each": ("bare", "note@localhost"),
    "worker, stateless": ("worker", "note@localhost"),
    "worker, state and answer": ("worker", "talk@localhost"),
}


def measure(servers: Sequence[Server], seconds: float) -> None:
    """Print how many mails a second are drained, on each server."""
    columns = []
    for server in servers:
        with installation(server) as ours:
            columns.append(
                medians({name: _drainer(ours, *way) for name, way in WAYS.items()}, seconds)
            )
    rows = [[name, *(f"{column[name]:.0f}" for column in columns)] for name in WAYS]
    print_table(
        "draining a backlog, messages per second", ["", *(server.name for server in servers)], rows
    )


def _drainer(ours: Installation, way: str, recipient: str) -> Callable[[int], float]:
    return lambda count: float(ours.run("-m", "benchmarks.drain", way, recipient, str(count)))
