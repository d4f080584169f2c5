"""How many conversations a second, next to Salmon: mail in, state moved, answer at a sink."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from benchmarks.harness import Program, Server, installation, medians, print_table
from benchmarks.load import Load, converse
from benchmarks.salmon_peer import NoSalmon, running_salmon
from benchmarks.sink import Sink, running_sink

PEER = "Salmon, states in memory, five sessions"
BAR = 2.0
#: With a load, what holds so many conversations and returns how many seconds they took.
Holder = Callable[[Load], Callable[[int], float]]
PARTS = ("relay", "worker", "receiver")
FIVE = Load("five sessions", size=4096, recipient="talk@localhost", sessions=5)
TWENTY = replace(FIVE, name="twenty sessions", sessions=20)


def measure(servers: Sequence[Server], seconds: float) -> None:
    """Print how many conversations a second are held, on each server and by Salmon.

    Salmon has five sessions, since it hangs with more.
    """
    with contextlib.ExitStack() as stack:
        holders = {}
        for server in servers:
            hold = stack.enter_context(_holder(server))
            holders |= {f"{server.name}, {load.name}": hold(load) for load in (FIVE, TWENTY)}
        try:
            holders[PEER] = stack.enter_context(_salmon())(FIVE)
        except NoSalmon as reason:
            print(f"Without Salmon: {reason}")
        rates = medians(holders, seconds)
    peer = rates.get(PEER)
    print_table(
        "conversations: receiver, worker, relay",
        ["", "per second", "to Salmon", "at least"],
        [[name, f"{rate:.0f}", *_compared(rate, peer)] for name, rate in rates.items()],
    )


def _compared(rate: float, peer: float | None) -> list[str]:
    return [f"{rate / peer:.2f}", f"{BAR:.2f}"] if peer and rate != peer else ["", ""]


@contextlib.contextmanager
def _holder(server: Server) -> Iterator[Holder]:
    """Run all parts; yield what holds conversations with them."""
    with running_sink() as sink, running_office(server, sink) as office:
        yield _through(office["receiver"].address, sink)


@contextlib.contextmanager
def _salmon() -> Iterator[Holder]:
    with running_sink() as sink, running_salmon(sink.address) as salmon:
        yield _through(salmon.address, sink)


@contextlib.contextmanager
def running_office(server: Server, sink: Sink) -> Iterator[dict[str, Program]]:
    """Run relay, worker and receiver, with the sink as smart host; yield them by name."""
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(installation(server, MAIL_RELAY=sink.address))
        yield {name: stack.enter_context(ours.part(name)) for name in PARTS}


def _through(address: str, sink: Sink) -> Holder:
    def hold(load: Load, count: int) -> float:
        before = sink.count
        sent = converse(address, load, count)
        return sink.wait_for(before + count) - sent.begin

    return lambda load: partial(hold, load)
