"""How fast a worker of Celery drains a backlog with Redis, next to one of our own."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.backlog import TALK, drainer
from benchmarks.harness import Installation, Server, fixed_medians, installation, print_table
from tests.redis import NoRedis, Redis

LOCAL, CELERY = "local", "celery"
WORKER = ("-m", "celery", "-A", "benchmarks", "worker", "--concurrency=1", "--loglevel=WARNING")


def measure(servers: Sequence[Server], count: int) -> None:
    """Print how many mails a second one worker of each engine drains, on each PostgreSQL."""
    for server in servers:
        if not server.url:
            continue  # Celery's workers run side by side, which SQLite does not bear
        try:
            _print_rates(server, count)
        except NoRedis as reason:
            print(f"Without Celery: {reason}.")


def _print_rates(server: Server, count: int) -> None:
    with installation(server) as ours, _celery(server) as with_celery:
        rates = fixed_medians(
            {
                LOCAL: (drainer(ours, TALK, workers=1), count),
                CELERY: (drainer(with_celery, TALK, workers=0), count),
            }
        )
    print_table(
        f"one worker and a backlog of {count:,}, messages per second",
        ["", LOCAL, CELERY, "ratio", "at least"],
        [
            [
                server.name,
                *(f"{rates[name]:.0f}" for name in (LOCAL, CELERY)),
                f"{rates[CELERY] / rates[LOCAL]:.2f}",
                "0.50",
            ]
        ],
    )


@contextlib.contextmanager
def _celery(server: Server) -> Iterator[Installation]:
    """Make an installation whose worker is one of Celery; yield it when that works."""
    with tempfile.TemporaryDirectory(prefix="mail-bench-") as folder:
        broker = Redis(Path(folder))
        broker.start()
        try:
            with (
                installation(server, MAIL_ENGINE=CELERY, MAIL_BROKER=broker.url) as ours,
                ours.part("sweeper"),  # or a wake-up that expires before a worker is there is lost
                ours.background(*WORKER),
            ):
                drainer(ours, TALK, workers=0)(1)
                yield ours
        finally:
            broker.stop()
