"""`python -m benchmarks`: measure messages per second on this machine, next to aiosmtpd."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys

from benchmarks import backlog, conversations, receiving
from benchmarks.harness import ROUNDS, BrokenBenchmark, database_servers
from benchmarks.load import SMTP_SOURCE

BENCHMARKS = {
    "receiving": receiving.measure,
    "conversations": conversations.measure,
    "backlog": backlog.measure,
}


def main() -> None:
    options = _parser().parse_args()
    print(
        f"{os.cpu_count()} cores, Python {platform.python_version()}; "
        f"load by {SMTP_SOURCE or 'our own client'}; "
        f"medians of {ROUNDS} rounds of about {options.seconds:g} s"
    )
    with database_servers(options.database) as servers:
        for name in options.only or BENCHMARKS:
            BENCHMARKS[name](servers, options.seconds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=BENCHMARKS, help="one benchmark; may be repeated"
    )
    parser.add_argument("--seconds", type=float, default=3, help="of each round; default: 3")
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
