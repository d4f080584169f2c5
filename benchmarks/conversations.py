"""How many conversations a second: mail in, state moved, answer at the smart host."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from benchmarks.harness import Server, installation, medians, print_table
from benchmarks.load import Load, converse
from benchmarks.sink import Sink, running_sink

MANY = Load("many at once", size=4096, recipient="talk@localhost")
ALONE = Load("one alone", size=4096, recipient="talk@localhost", sessions=1)


def measure(servers: Sequence[Server], seconds: float) -> None:
    """Print how many conversations a second are held, on each server."""
    with contextlib.ExitStack() as stack:
        holders = {server.name: stack.enter_context(_holder(server)) for server in servers}
        alone = {
            name: statistics.median(hold(ALONE, 1) for _ in range(20))
            for name, hold in holders.items()
        }
        rates = medians({name: partial(hold, MANY) for name, hold in holders.items()}, seconds)
    print_table(
        "conversations: receiver, worker, relay",
        ["", "per second, 20 sessions", "one alone, ms"],
        [[name, f"{rates[name]:.0f}", f"{alone[name] * 1000:.1f}"] for name in holders],
    )


@contextlib.contextmanager
def _holder(server: Server) -> Iterator[Callable[[Load, int], float]]:
    """Run all parts; yield what holds conversations with them and returns how long they took."""
    with (
        running_sink() as sink,
        installation(server, MAIL_RELAY=sink.address) as ours,
        ours.part("relay"),
        ours.part("worker"),
        ours.part("receiver") as receiver,
    ):
        yield lambda load, count: _hold(receiver.address, sink, load, count)


def _hold(receiver: str, sink: Sink, load: Load, count: int) -> float:
    before = sink.count
    sent = converse(receiver, load, count)
    return sink.wait_for(before + count) - sent.begin
