"""What a second receiver brings that shares the port of the first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from benchmarks.harness import Server, installation, medians, print_table
from benchmarks.load import EACH, KEPT, sender


def measure(servers: Sequence[Server], seconds: float) -> None:
    """Print how many mails a second are received by one process and by two, on each server."""
    rows = [row for server in servers for row in _rows(server, seconds)]
    print_table("several receivers, messages per second", ["", "one", "two", "ratio"], rows)


def _rows(server: Server, seconds: float) -> Iterator[list[str]]:
    with _receivers(server, 1) as one, _receivers(server, 2) as two:
        for load in (KEPT, EACH):
            rates = medians({"one": sender(one, load), "two": sender(two, load)}, seconds)
            cells = [f"{rates['one']:.0f}", f"{rates['two']:.0f}"]
            yield [f"{server.name}, {load.name}", *cells, f"{rates['two'] / rates['one']:.2f}"]


@contextlib.contextmanager
def _receivers(server: Server, count: int) -> Iterator[str]:
    """Run receivers on one database and one port; yield where they listen."""
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(installation(server, MAIL_RECEIVER_PROCESSES=str(count)))
        address = stack.enter_context(ours.part("receiver")).address
        for _ in range(count - 1):
            stack.enter_context(ours.part("receiver", MAIL_RECEIVER=address))
        yield address
