"""Somebody who types what the documentation says, in a folder of their own."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.project import HOST, free_ports
from tests.snippets import ROOT, Snippet
from tests.waiting import DEADLINE, wait_until

MORE_SETTINGS = """
INSTALLED_APPS += ["examples.mailinglist"]
MAILING_LISTS = {"CREATE_ON_SUBSCRIBE": True}
"""
STOP = "python manage.py stopmail"


class Reader:
    """Where they are, and what their programs are told by the environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        receiver, catcher, web = (f"{HOST}:{port}" for port in free_ports(3))
        self.environment = {
            "PATH": f".:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "MAIL_RECEIVER": receiver,
            "MAIL_RELAY": catcher,
            "MAIL_CATCHER": catcher,
            "WEB": web,
        }

    def follow(self, snippet: Snippet) -> None:
        """Make the file that a snippet is, or add to it; or type its commands."""
        if snippet.title:
            name, at_its_end, _ = snippet.title.partition(", at its end")
            if at_its_end:
                self.write(name, f"\n\n{snippet.text}", "a")
            else:
                self.write(name, snippet.text)
        for command in snippet.commands:
            self.type(command)

    def write(self, name: str, text: str, mode: str = "w") -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open(mode) as opened:
            opened.write(text)

    def type(self, command: str) -> str:
        """Run a command to its end and return what it printed; fail if it does."""
        if command.startswith("cd "):
            self.folder /= command.removeprefix("cd ")
            return ""
        done = self._run(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=4 * DEADLINE,
        )

    def make_project(self, *apps: str) -> None:
        """Have a project of `startmail` with the mailing list of the examples and other apps."""
        self.type("python -m mailapp startmail project .")
        self.write("project/settings.py", f"{MORE_SETTINGS}INSTALLED_APPS += {list(apps)}\n", "a")
        (self.folder / ".venv").symlink_to(Path(sys.executable).parents[1])

    def have_it_running(self, wanted: bool) -> None:
        """Start or stop the mail server, unless it is as it is wanted."""
        if wanted and not self.runs():
            self.type("python manage.py migrate --verbosity 0")
            self.type("python manage.py runmail --detach")
        elif self.runs() and not wanted:
            self.type(STOP)

    def runs(self) -> bool:
        return (self.folder / "run/runmail.pid").exists()

    def wait_for_the_mail(self) -> None:
        """Return once no mail is left to be handled or to be sent."""
        if self.runs():
            wait_until(lambda: self._count("status IN ('queued', 'claimed')") == 0)

    def _count(self, condition: str) -> int:
        with contextlib.closing(sqlite3.connect(self.folder / "run/mail.sqlite3")) as database:
            query = f"SELECT count(*) FROM mailapp_delivery WHERE {condition}"
            [count] = database.execute(query).fetchone()
            return count

    def caught(self) -> list[str]:
        """The mail that went out and was caught."""
        return [file.read_text() for file in (self.folder / "run/queue/new").glob("*")]


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[Reader]:
    """Yield a reader; end what they left running."""
    reader = Reader(folder)
    try:
        yield reader
    finally:
        reader.have_it_running(False)
