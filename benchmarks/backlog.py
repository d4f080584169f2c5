"""How fast workers drain a backlog, next to the same work by hand, a transaction each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from benchmarks.harness import Installation, Server, fixed_medians, installation, print_table

TALK, NOTE = "talk@localhost", "note@localhost"
BY_HAND = "state and answer, by hand"
ONE, TWO = "state and answer, one worker", "state and answer, two workers"
STATELESS = "stateless, one worker"
BY_HAND_SHARE = 10  # of the backlog it does so small a part, since it takes so long


def measure(servers: Sequence[Server], count: int) -> None:
    """Print how many mails a second are drained, on each server."""
    columns = [_rates(server, count) for server in servers]
    bars = {BY_HAND: "", ONE: "1500 on SQLite", TWO: "", STATELESS: ""}
    rows = [
        [name, *(_figure(column.get(name)) for column in columns), bar]
        for name, bar in bars.items()
    ]
    ratios = [("one worker to by hand", ONE, BY_HAND, "4"), ("two workers to one", TWO, ONE, "1.5")]
    rows += [
        [name, *(_ratio(column.get(first), column[second]) for column in columns), bar]
        for name, first, second, bar in ratios
    ]
    print_table(
        f"draining a backlog of {count:,}, messages per second",
        ["", *(server.name for server in servers), "at least"],
        rows,
    )


def _rates(server: Server, count: int) -> dict[str, float]:
    with installation(server) as ours:
        contestants = {
            BY_HAND: (_by_hand(ours), max(count // BY_HAND_SHARE, 1)),
            ONE: (drainer(ours, TALK, workers=1), count),
            STATELESS: (drainer(ours, NOTE, workers=1), count),
        }
        if server.url:  # SQLite has one writer at a time
            contestants[TWO] = (drainer(ours, TALK, workers=2), count)
        return fixed_medians(contestants)


def _by_hand(ours: Installation) -> Callable[[int], float]:
    return lambda count: float(ours.run("-m", "benchmarks.drain", "by-hand", TALK, str(count)))


def drainer(ours: Installation, recipient: str, *, workers: int) -> Callable[[int], float]:
    """Return what has workers drain so many mails and returns the seconds that it took."""

    def drain(count: int) -> float:
        with contextlib.ExitStack() as stack:
            for _ in range(workers):
                stack.enter_context(ours.part("worker"))
            return float(ours.run("-m", "benchmarks.drain", "workers", recipient, str(count)))

    return drain


def _figure(rate: float | None) -> str:
    return f"{rate:.0f}" if rate else "-"


def _ratio(rate: float | None, other: float) -> str:
    return f"{rate / other:.2f}" if rate else "-"
