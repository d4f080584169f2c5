"""The whole program on trial: real processes in a folder, on ports and a database of their own."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import dj_database_url
from django.db import connections, models

from tests.waiting import DEADLINE, wait_until

ROOT = Path(__file__).parent.parent
HOST = "127.0.0.1"

Row = TypeVar("Row", bound=models.Model)


class Databases:
    """Makes databases for projects: each a copy of one that is migrated once."""

    def __init__(self, folder: Path, server: str, **environment: str) -> None:
        """`server` is the URL of a PostgreSQL database; empty: SQLite files in `folder`.

        The migrations are those of the settings that the `environment` names.
        """
        self._folder = folder
        self._server = server
        self._template = self._empty()
        _manage(["migrate", "--verbosity=0"], environment | {"DATABASE_URL": self._template})

    @contextlib.contextmanager
    def fresh(self) -> Iterator[str]:
        """Yield the URL of a migrated database, which is gone afterwards."""
        url = self._empty(template=self._template) if self._server else self.copy(self._folder)
        try:
            yield url
        finally:
            self._drop(url)

    def copy(self, folder: Path) -> str:
        """Copy a migrated SQLite file into a folder and return its URL."""
        url = f"sqlite:///{folder}/{uuid.uuid4().hex}.sqlite3"
        shutil.copy(_path(self._template), _path(url))
        return url

    def close(self) -> None:
        """Remove what all of them were copied from."""
        self._drop(self._template)

    def _empty(self, template: str = "/template1") -> str:
        name = uuid.uuid4().hex
        if not self._server:
            return f"sqlite:///{self._folder}/{name}.sqlite3"
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{_name(template)}"')
        return urlsplit(self._server)._replace(path=f"/{name}").geturl()

    def _drop(self, url: str) -> None:
        if self._server:
            self._execute(f'DROP DATABASE "{_name(url)}" WITH (FORCE)')
        else:
            _path(url).unlink()

    def _execute(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self._server, autocommit=True) as connection:
            connection.execute(statement.encode())


def _name(url: str) -> str:
    return urlsplit(url).path.rpartition("/")[2]


def _path(url: str) -> Path:
    return Path(urlsplit(url).path.removeprefix("/"))


class Program:
    """A command of the project that runs in the background."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.name = " ".join(command)
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for pytest, which ends it
            )

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str) -> None:
        """Return once `text` is printed; fail when the program ends without it."""
        wait_until(lambda: text in self.output or self.process.poll() is not None)
        assert text in self.output, f"{self.name} ended without {text!r}:\n{self.output}"

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end, wait until it did, and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)

    def kill(self) -> None:
        """End it without a warning; what it started is not told."""
        self.process.kill()
        self.process.wait(DEADLINE)


class Project:
    """An installation: its folder, its environment, its database and what runs of it."""

    def __init__(self, folder: Path, database_url: str, environment: dict[str, str]) -> None:
        self.folder, self.database_url, self.given = folder, database_url, environment
        self.receiver, self.catcher, self.web = (f"{HOST}:{port}" for port in free_ports(3))
        self.environment = {
            "DATABASE_URL": database_url,
            "RUN_DIR": str(folder),
            "LOG_DIR": str(folder / "logs"),
            "MAIL_RECEIVER": self.receiver,
            "MAIL_RELAY": self.catcher,
            "MAIL_CATCHER": self.catcher,
            "WEB": self.web,
            "MAIL_RELOAD": "0",  # or an editor's change would stir the tests
            **environment,
        }
        self._programs: list[Program] = []
        self._numbers = itertools.count()  # of their logs, also when they start at the same time
        self._alias = f"project-{uuid.uuid4().hex}"
        database = {**connections.settings["default"], **dj_database_url.parse(database_url)}
        connections.settings[self._alias] = database

    @property
    def caught(self) -> Path:
        """The Maildir of the catcher."""
        return self.folder / "queue"

    def manage(
        self, *arguments: str, input: str | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and return its exit code and what it printed."""
        return _manage(arguments, self.environment | environment, input=input, check=False)

    def start(self, *arguments: str, until: str, script: str = "manage.py") -> Program:
        """Run a command in the background; return once it has printed `until`."""
        log = self.folder / f"{next(self._numbers)}-{arguments[0]}.log"
        program = Program([script, *arguments], self.environment, log)
        self._programs.append(program)
        program.wait_for(until)
        return program

    def query(self, model: type[Row]) -> models.QuerySet[Row]:
        """Look into the project's database."""
        return model._default_manager.using(self._alias)

    def processes(self) -> list[int]:
        """The ids of all that runs for it, however it was started. Finds none without /proc."""
        mark = f"RUN_DIR={self.folder}".encode()
        found = []
        for environment in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in environment.read_bytes().split(b"\0"):
                    found.append(int(environment.parent.name))
        return found

    def close(self) -> None:
        """End what still runs; fail if it does not, or if anything printed a traceback."""
        try:
            for program in reversed(self._programs):
                if program.process.poll() is None:
                    program.stop()
            wait_until(lambda: not self.processes())
        finally:
            for program in self._programs:
                program.kill()
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            connections[self._alias].close()
            del connections[self._alias], connections.settings[self._alias]
        for program in self._programs:
            assert "Traceback" not in program.output, f"{program.name}:\n{program.output}"


@contextlib.contextmanager
def projects(databases: Databases) -> Iterator[Callable[..., Project]]:
    """Make installations by calling what this yields; at the end, close them all.

    One that is made `beside` another is on another machine: it has its environment and its
    database, and a folder and ports of its own.
    """
    with contextlib.ExitStack() as stack:

        def make(beside: Project | None = None, **environment: str) -> Project:
            # Not pytest's own folder: its name is too long for a Unix socket.
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mail-project-"))
            if beside:
                url, environment = beside.database_url, beside.given | environment
            else:
                url = stack.enter_context(databases.fresh())
            made = Project(Path(folder), url, environment)
            return stack.enter_context(contextlib.closing(made))

        yield make


def _manage(
    arguments: tuple[str, ...] | list[str],
    environment: dict[str, str],
    *,
    input: str | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        input=input or "",
        capture_output=True,
        text=True,
        timeout=4 * DEADLINE,
        check=check,
    )


def free_ports(count: int) -> list[int]:
    """Choose ports below those that the system lends to clients, so that no client takes them."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(10240, 32768)
        with contextlib.suppress(OSError), socket.create_server((HOST, port)):
            found.append(port)
    return found
