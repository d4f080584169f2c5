"""How much memory the receiver takes: for large mails at once, and for idle connections."""

from __future__ import annotations

import smtplib
import statistics
import time
from collections.abc import Sequence

from benchmarks.crowd import crowd, send_at_once
from benchmarks.footprint import NOW, PEAK, PROC, megabytes
from benchmarks.harness import Server, installation, print_table
from benchmarks.load import CONTENT

LARGE_OCTETS = 25_000_000
IDLE_PER_TRANSACTION = 10


def measure(servers: Sequence[Server], large: int, idle: int) -> None:
    """Print what the receiver and its children take, and how long a new client waits meanwhile."""
    if not PROC.exists():
        print("Without memory: there is no /proc.")
        return
    columns = [[_peak(server, large), *_idle(server, idle)] for server in servers]
    rows = [
        [f"{large} messages of 25 MB at once: peak, MB", "512"],
        [f"{idle:,} idle connections: growth, MB", "200"],
        ["a new transaction meanwhile: 99th percentile, ms", "100"],
    ]
    print_table(
        "resident memory of the receiver",
        ["", *(server.name for server in servers), "at most"],
        [
            [name, *(f"{cell:.1f}" for cell in cells), bar]
            for (name, bar), *cells in zip(rows, *columns, strict=True)
        ],
    )


def _peak(server: Server, large: int) -> float:
    with installation(server) as ours, ours.part("receiver") as receiver:
        send_at_once(receiver.address, large, LARGE_OCTETS)
        return megabytes(receiver.pid, PEAK)


def _idle(server: Server, count: int) -> tuple[float, float]:
    """Return by how much memory grows, and what 99 of 100 new transactions take at most, in ms."""
    with installation(server) as ours, ours.part("receiver") as receiver:
        _transaction(receiver.address)  # so that what it loads is not counted
        before = megabytes(receiver.pid, NOW)
        with crowd(receiver.address, count):
            growth = megabytes(receiver.pid, NOW) - before
            transactions = range(max(count // IDLE_PER_TRANSACTION, 2))
            seconds = [_transaction(receiver.address) for _ in transactions]
    return growth, statistics.quantiles(seconds, n=100, method="inclusive")[-1] * 1000


def _transaction(address: str) -> float:
    """Send a mail over a new connection; return the seconds until it was answered 250."""
    host, _, port = address.rpartition(":")
    begin = time.perf_counter()
    with smtplib.SMTP(host, int(port), local_hostname="client.test") as client:
        client.sendmail("reader@client.test", ["note@localhost"], CONTENT)
        return time.perf_counter() - begin
