"""`python -m benchmarks`: measure messages per second on this machine, next to aiosmtpd."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
from collections.abc import Callable, Sequence

from benchmarks import (
    backlog,
    cleaning,
    conversations,
    engines,
    harness,
    memory,
    receivers,
    receiving,
    sending,
    stored,
    waking,
)
from benchmarks.harness import BrokenBenchmark, Server, database_servers
from benchmarks.load import SMTP_SOURCE

BENCHMARKS: dict[str, Callable[[Sequence[Server], argparse.Namespace], None]] = {
    "receiving": lambda servers, options: receiving.measure(servers, options.seconds),
    "receivers": lambda servers, options: receivers.measure(servers, options.seconds),
    "stored": lambda servers, options: stored.measure(
        servers, options.seconds, options.stored, options.backlog
    ),
    "memory": lambda servers, options: memory.measure(servers, options.large, options.idle),
    "conversations": lambda servers, options: conversations.measure(servers, options.seconds),
    "waking": lambda servers, options: waking.measure(servers, options.seconds, options.alone),
    "backlog": lambda servers, options: backlog.measure(servers, options.backlog),
    "sending": lambda servers, options: sending.measure(servers, options.posted),
    "cleaning": lambda servers, options: cleaning.measure(servers, options.seconds, options.old),
    "engines": lambda servers, options: engines.measure(servers, options.backlog),
}


def main() -> None:
    options = _parser().parse_args()
    harness.rounds = options.rounds
    print(
        f"{os.cpu_count()} cores, Python {platform.python_version()}; "
        f"load by {SMTP_SOURCE or 'our own client'}; "
        f"medians of {options.rounds} rounds of about {options.seconds:g} s"
    )
    with database_servers(options.database) as servers:
        for name in options.only or BENCHMARKS:
            BENCHMARKS[name](servers, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=BENCHMARKS, help="one benchmark; may be repeated"
    )
    parser.add_argument("--seconds", type=float, default=3, help="of each round; default: 3")
    parser.add_argument(
        "--rounds", type=int, default=harness.rounds, help="of each benchmark; default: 3"
    )
    parser.add_argument(
        "--stored", type=int, default=1_000_000, help="mails that are stored already, for `stored`"
    )
    parser.add_argument(
        "--large", type=int, default=50, help="large mails at once, for `memory`; default: 50"
    )
    parser.add_argument(
        "--idle", type=int, default=10_000, help="idle connections, for `memory`; default: 10000"
    )
    parser.add_argument(
        "--backlog",
        type=int,
        default=20_000,
        help="mails that wait, for `backlog`, `engines` and `stored`; default: 20000",
    )
    parser.add_argument(
        "--posted", type=int, default=10_000, help="mails to send, for `sending`; default: 10000"
    )
    parser.add_argument(
        "--old", type=int, default=100_000, help="mails to remove, for `cleaning`; default: 100000"
    )
    parser.add_argument(
        "--alone", type=int, default=200, help="mails that come alone, for `waking`; default: 200"
    )
    parser.add_argument(
        "--database",
        metavar="URL",
        help="sqlite:// or a PostgreSQL on which databases may be made; default: SQLite, "
        "and a PostgreSQL that is started for it where one is installed",
    )
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leave nothing running behind
    try:
        main()
    except BrokenBenchmark as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
