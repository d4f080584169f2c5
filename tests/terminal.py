"""A terminal, and mutt in it, as somebody uses it who reads and answers what was caught."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select

from tests.waiting import DEADLINE, wait_until

ENTER, ESCAPE = "\r", "\x1b"
EMPTY = "\x15"  # Ctrl-U: delete the line
LAST = "*"  # go to the last mail of the list

_CONTROLS = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[()].|[=>78])")


class Terminal:
    """A program that believes that somebody sits before it."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execvpe(command[0], command, environment)
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

    def close(self) -> None:
        """Switch it off; what ran in it has ended."""
        os.close(self._terminal)

    @property
    def shown(self) -> str:
        return "".join(_CONTROLS.sub("", self._heard).split())


@contextmanager
def mutt(folder: Path, environment: dict[str, str], written: str) -> Iterator[Terminal]:
    """Start it in a project and end it; whoever writes a mail there begins it with `written`."""
    editor = folder / "editor"
    editor.write_text(f'#!/bin/sh\nsed -i "1i {written}" "$1" && echo >>"$1"\n')
    editor.chmod(0o700)
    more = {"TERM": "vt100", "HOME": str(folder), "VISUAL": str(editor)}
    opened = Terminal(["mutt", "-F", "muttrc"], folder, environment | more)
    try:
        yield opened
        opened.press("q")
        wait_until(lambda: os.waitpid(opened.pid, os.WNOHANG)[0])
    except BaseException:
        os.kill(opened.pid, signal.SIGKILL)
        os.waitpid(opened.pid, 0)
        raise
    finally:
        opened.close()
