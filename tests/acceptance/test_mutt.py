"""mutt in a terminal, with the muttrc of this project: it reads what is caught, and answers it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select
from typing import TYPE_CHECKING

import pytest

from tests.project import ROOT
from tests.waiting import DEADLINE, wait_until

if TYPE_CHECKING:
    from tests.project import Project

ENTER, ESCAPE = "\r", "\x1b"
EMPTY = "\x15"  # Ctrl-U: delete the line

_CONTROLS = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[()].|[=>78])")

needs_mutt = pytest.mark.skipif(not shutil.which("mutt"), reason="mutt is not installed")


class Terminal:
    """A program that believes that somebody sits before it."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execvpe(command[0], command, os.environ | environment)
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self._heard = ""

    def press(self, *keys: str) -> None:
        """Type, and forget what was shown before."""
        self._heard = ""
        os.write(self._terminal, "".join(keys).encode())

    def wait_for(self, text: str) -> None:
        """Return once `text` is shown; spaces do not count, since they may be jumped over."""
        wanted = "".join(text.split())
        while wanted not in self.shown:
            ready, _, _ = select([self._terminal], [], [], DEADLINE)
            assert ready, f"{text!r} is not shown, but:\n{self._heard}"
            self._heard += os.read(self._terminal, 65536).decode(errors="replace")

    @property
    def shown(self) -> str:
        return "".join(_CONTROLS.sub("", self._heard).split())


@contextmanager
def mutt(project: Project, folder: Path) -> Iterator[Terminal]:
    """Start it in a folder that looks like the one of this project, and end it."""
    for name, target in {
        "run": project.folder,
        "manage.py": ROOT / "manage.py",
        "muttrc": ROOT / "muttrc",
        ".venv": Path(sys.prefix),
    }.items():
        (folder / name).symlink_to(target)
    editor = folder / "editor"
    editor.write_text('#!/bin/sh\nsed -i "1i Written by hand." "$1" && echo >>"$1"\n')
    editor.chmod(0o700)
    environment = {"TERM": "vt100", "HOME": str(folder), "VISUAL": str(editor)}
    opened = Terminal(["mutt", "-F", "muttrc"], folder, project.environment | environment)
    try:
        yield opened
        opened.press("q")
        wait_until(lambda: os.waitpid(opened.pid, os.WNOHANG)[0])
    except BaseException:
        os.kill(opened.pid, signal.SIGKILL)
        os.waitpid(opened.pid, 0)
        raise
    finally:
        os.close(opened._terminal)


@needs_mutt
@pytest.mark.any_database
def test_what_mutt_answers_is_the_next_transition(project: Callable[..., Project], tmp_path: Path):
    from mailapp.models import Message, Transition

    running = project()
    running.start("runmail", until="Ctrl-C ends everything.")

    with mutt(running, tmp_path) as terminal:
        terminal.wait_for("q:Quit")
        terminal.press("m")
        terminal.wait_for("To:")
        terminal.press("nobody@localhost", ENTER)
        terminal.wait_for("Subject:")
        terminal.press("Hello", ENTER)
        terminal.wait_for("y:Send")
        terminal.press(ESCAPE, "f")
        terminal.wait_for("From:")
        terminal.press(EMPTY, "A Reader <reader@example.com>", ENTER)
        terminal.press("y")
        terminal.wait_for("nobody@localhost: 550 5.1.1 No such recipient here")

        terminal.press("q")
        terminal.wait_for("y:Send")
        terminal.press("t")
        terminal.wait_for("To:")
        terminal.press(EMPTY, "test.list-subscribe@localhost", ENTER)
        terminal.press("y")
        terminal.wait_for("Please confirm: subscribe to test.list")

        terminal.press(ENTER)
        terminal.wait_for("i:Exit")
        terminal.press("r")
        terminal.wait_for("y:Send")
        terminal.press("y")
        moves = running.query(Transition).values_list("from_state", "to_state")
        wait_until(lambda: len(moves.all()) == 2)
        terminal.press("i")
        terminal.wait_for("Welcome to test.list")

    assert list(moves.all()) == [
        ("START", "CONFIRMING_SUBSCRIBE"),
        ("CONFIRMING_SUBSCRIBE", "POSTING"),
    ]
    asked, answered = running.query(Message).exclude(protocol="").order_by("pk")
    assert asked.author == "A Reader <reader@example.com>"
    assert asked.sender == answered.sender == "reader@example.com"
    assert answered.subject == "Re: Please confirm: subscribe to test.list"
    assert answered.raw.partition(b"\r\n\r\n")[2].startswith(b"Written by hand.\r\n")


def test_a_new_project_has_the_same_muttrc():
    template = ROOT / "mailapp" / "project_template" / "muttrc"

    assert template.read_text() == (ROOT / "muttrc").read_text()
