"""What the benchmarks share: installations to measure, rounds that alternate, and a table."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mailapp.children import Running
from tests import postgres
from tests.project import Databases

ROOT = Path(__file__).parent.parent
rounds = 3  #: in which each contestant is measured once; --rounds says another number
SETTINGS = "benchmarks.settings"


class Server(NamedTuple):
    """Where databases are made: SQLite files, or a PostgreSQL."""

    name: str
    databases: Databases
    url: str = ""


@contextlib.contextmanager
def database_servers(url: str | None) -> Iterator[list[Server]]:
    """Yield the server that `url` names, else SQLite and, where one can be had, a PostgreSQL."""
    with contextlib.ExitStack() as stack:
        if url and not url.startswith("sqlite"):
            yield [stack.enter_context(_server("PostgreSQL", url))]
            return
        servers = [stack.enter_context(_server("SQLite"))]
        try:
            if not url:
                started = stack.enter_context(_postgres())
                servers.append(stack.enter_context(_server("PostgreSQL", started)))
        except postgres.NoPostgres as reason:
            print(f"Without PostgreSQL: {reason}.")
        yield servers


@contextlib.contextmanager
def _server(name: str, url: str = "") -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="mail-bench-") as folder:
        environment = {"DJANGO_SETTINGS_MODULE": SETTINGS, "RUN_DIR": folder}
        with contextlib.closing(Databases(Path(folder), url, **environment)) as databases:
            yield Server(name, databases, url)


def _postgres() -> contextlib.AbstractContextManager[str]:
    if importlib.util.find_spec("psycopg") is None:
        raise postgres.NoPostgres("psycopg is not installed")
    return postgres.server()


class Program(NamedTuple):
    """A program that runs and is ready."""

    address: str  #: where it serves
    pid: int


@dataclass(frozen=True)
class Installation:
    """This project with a folder and a database of its own."""

    folder: Path
    environment: Mapping[str, str]

    def part(self, name: str, **environment: str) -> contextlib.AbstractContextManager[Program]:
        """Run a part of `runmail` until the block ends; yield it once it is ready."""
        command = ("manage.py", "runmail", "--only", name, "--supervisor-fd")
        return running(
            *command, folder=self.folder, environment={**self.environment, **environment}
        )

    @contextlib.contextmanager
    def background(self, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a program, which need not be ready, until the block ends or it does."""
        leashed = ("-m", "tests.leash", sys.executable, *command)
        with _process(*leashed, folder=self.folder, environment=self.environment) as started:
            yield started.process

    def run(self, *command: str) -> str:
        """Run a program to its end and return what it printed."""
        done = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise BrokenBenchmark(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout


class BrokenBenchmark(Exception):
    """A program of the benchmark failed, so there is nothing to tell."""


@contextlib.contextmanager
def installation(server: Server, **environment: str) -> Iterator[Installation]:
    """Make an installation on a migrated database; all of it is gone afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="mail-bench-") as name,
        server.databases.fresh() as url,
    ):
        yield Installation(
            Path(name),
            {
                "DJANGO_SETTINGS_MODULE": SETTINGS,
                "DATABASE_URL": url,
                "RUN_DIR": name,
                "MAIL_RECEIVER": "127.0.0.1:0",
                **environment,
            },
        )


@contextlib.contextmanager
def running(*command: str, folder: Path, environment: Mapping[str, str]) -> Iterator[Program]:
    """Run a program until the block ends; yield it once it is ready.

    The program gets the number of a socket as its last argument: it says there where it serves,
    and ends when the other end is closed.
    """
    with _process(*command, folder=folder, environment=environment) as (process, line):
        ready = line.recv(4096).decode().strip()
        if not ready:
            said = (folder / "log").read_text(errors="replace")
            raise BrokenBenchmark(f"{' '.join(command)} did not start:\n{said}")
        yield Program(ready, process.pid)


@contextlib.contextmanager
def _process(*command: str, folder: Path, environment: Mapping[str, str]) -> Iterator[Running]:
    """Start a program, which writes to the log in `folder`, and wait for its end after the block.

    Its last argument is the number of its end of a socket, and it ends when ours is closed: after
    the block, or because we were killed.
    """
    ours, theirs = socket.socketpair()
    with (folder / "log").open("ab") as log, theirs:
        process = subprocess.Popen(
            [sys.executable, *command, str(theirs.fileno())],
            cwd=ROOT,
            env=os.environ | environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        with ours:
            yield Running(process, ours)
    finally:
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise BrokenBenchmark(f"{' '.join(command)} did not end") from None


def medians(contestants: Mapping[str, Callable[[int], float]], seconds: float) -> dict[str, float]:
    """Measure each contestant once a round, in turn, and return its median rate a second.

    A contestant does something as often as it is asked and returns how long that took.
    """
    return fixed_medians(
        {name: (each, _count_for(each, seconds)) for name, each in contestants.items()}
    )


def fixed_medians(
    contestants: Mapping[str, tuple[Callable[[int], float], int]],
) -> dict[str, float]:
    """As `medians`, but each contestant comes with how often it shall do it."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, (contestant, count) in contestants.items():
            rates[name].append(count / contestant(count))
    return {name: statistics.median(found) for name, found in rates.items()}


def _count_for(contestant: Callable[[int], float], seconds: float) -> int:
    """Warm it up, and find how often it can be done in about `seconds`."""
    count = 10
    while (took := contestant(count)) < min(seconds, 0.5):
        count *= 2
    return max(int(count * seconds / took), 1)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows below a title: the first column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    print(f"\n{title}\n")
    for row in (header, *rows):
        first, *others = (
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *others]).rstrip())
