"""Commands that go on until they are ended: started in the background, looked at, and ended."""

from __future__ import annotations

import argparse
import contextlib
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from django.core.management.base import CommandError, OutputWrapper

from mailapp.children import Running
from mailapp.conf import mail_settings
from mailapp.lifecycle import on_signals
from mailapp.pidfile import PidFile, patience

ADVICE = "It runs in the background: manage.py mailstatus, restartmail, stopmail."
_LOOK_SECONDS = 0.05


def add_options(parser: argparse.ArgumentParser, choice: Any = None) -> None:
    """Add --detach, to a group of options of which one is chosen if there is such a `choice`."""
    (choice or parser).add_argument(
        "--detach", action="store_true", help="go to the background once it is ready"
    )
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)


@dataclass(frozen=True)
class Program:
    """A command that goes on until it is ended."""

    command: Sequence[str]  #: of `manage.py`, with its arguments but for --detach
    name: str  #: of its pid file and of the file with what it prints in the background
    ready_fd: int | None = None  #: where to say that it serves; None: it is in the foreground

    def start(self) -> str:
        """Start it in the background; return what it says once it serves.

        Raise CommandError, with what it said, when it does not start.
        """
        log = Path(mail_settings().LOG_DIR) / f"{self.name}.log"
        with _opened(log) as output:
            said_before = output.tell()
            with on_signals(signal.default_int_handler):
                said, process = _start(self.command, output)
        if not said:
            process.wait()
            told = log.read_bytes()[said_before:].decode(errors="replace")
            raise CommandError(_reason(told, log))
        return said

    @contextlib.contextmanager
    def registered(self) -> Iterator[list[int]]:
        """In the background, hold its pid file; yield the descriptors that its children inherit.

        Raise RunsAlready.
        """
        if self.ready_fd is None:
            yield []
            return
        with PidFile.of(self.name).held(self.command) as lock:
            yield [lock]

    def announce(self, said: str, terminal: OutputWrapper) -> None:
        """Say that it serves: on the terminal, or to who waits for it in the background."""
        if self.ready_fd is None:
            terminal.write(f"{said} Ctrl-C ends it.")
            terminal.flush()
        else:
            tell(self.ready_fd, f"{said}\n{ADVICE}")


def named_for(*words: str) -> str:
    """Name a pid file for what a command works on.

    >>> named_for("deq", "/var/mail/posts")
    'deq-var-mail-posts'
    """
    return re.sub(r"[^A-Za-z0-9]+", "-", " ".join(words)).strip("-")


def tell(fd: int, said: str) -> None:
    """Have the command that waits for us say so, and end."""
    with socket.socket(fileno=fd) as line:
        line.sendall(said.encode())


def _opened(log: Path) -> IO[bytes]:
    try:
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # it names who writes to whom
        return log.open("ab")
    except OSError as error:
        raise CommandError(f"{log}: {error.strerror}") from error


def _start(command: Sequence[str], output: IO[bytes]) -> tuple[str, subprocess.Popen[bytes]]:
    """Start a command; return what it says when it is ready, "" when it ended."""
    process, line = Running.start(
        *("-m", "django", *command, "--ready-fd"),
        output=output,
        LOG_FILES="1",
    )
    try:
        with line, line.makefile() as text:
            return text.read(), process
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise CommandError("Interrupted before it was ready.", returncode=130) from None


def _reason(said: str, log: Path) -> str:
    """Find in what a process said why it did not start."""
    word = "CommandError: "
    lines = [line.removeprefix(word) for line in said.splitlines() if line.startswith(word)]
    return "\n".join(lines) or said.strip() or f"It ended before it was ready; see {log}"


def chosen(names: Sequence[str]) -> list[PidFile]:
    """Return the pid files of these names; without names, of all that runs here, or of runmail."""
    if names:
        return [PidFile.of(name) for name in names]
    return [each for each in PidFile.here() if each.pid()] or [PidFile.of_runmail()]


def stop(pid_file: PidFile) -> str:
    """End what holds a pid file, in good order; return what became of it.

    Raise CommandError when it does not end, OfAnotherUser when we may not end it.
    """
    pid = pid_file.send(signal.SIGTERM)
    end = time.monotonic() + patience()
    while not pid_file.is_over(pid):
        if time.monotonic() > end:
            raise CommandError(f"{pid_file.path}: process {pid} was asked to end and does not.")
        time.sleep(_LOOK_SECONDS)
    if pid:
        return f"{pid_file.name} has ended: it was process {pid}."
    if left_by := pid_file.left_by():
        return f"Nothing runs here: process {left_by}, which {pid_file.path} names, was killed."
    return f"Nothing runs here: there is no {pid_file.path}."
