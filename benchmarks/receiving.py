"""How many mails a second are received and stored, next to an aiosmtpd that discards them."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.harness import Server, installation, medians, print_table, running
from benchmarks.load import EACH, KEPT, Load, sender

PEER = "aiosmtpd, discards"
LOADS = [KEPT, EACH, Load("kept connections, 1 MB", size=1_000_000)]


def measure(servers: Sequence[Server], seconds: float) -> None:
    """Print how many mails a second are received, on each server and by the peer."""
    rows = []
    for load in LOADS:
        with _addresses(servers) as addresses:
            contestants = {name: sender(address, load) for name, address in addresses.items()}
            rates = medians(contestants, seconds)
        peer = rates.pop(PEER)
        ours = [cell for rate in rates.values() for cell in (f"{rate:.0f}", f"{rate / peer:.2f}")]
        rows.append([load.name, f"{peer:.0f}", *ours])
    names = [cell for server in servers for cell in (server.name, "ratio")]
    print_table("receiving, messages per second", ["", PEER, *names], rows)


@contextlib.contextmanager
def _addresses(servers: Sequence[Server]) -> Iterator[dict[str, str]]:
    """Run the peer and a receiver on each database; yield where they listen."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mail-bench-")))
        peer = running("-m", "benchmarks.discard", folder=folder, environment={})
        addresses = {PEER: stack.enter_context(peer).address}
        for server in servers:
            ours = stack.enter_context(installation(server))
            addresses[server.name] = stack.enter_context(ours.part("receiver")).address
        yield addresses
