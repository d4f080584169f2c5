"""Starts the mail server in the background, and ends it."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from typing import IO

from django.core.management.base import CommandError

from mailapp.children import Running
from mailapp.conf import mail_settings
from mailapp.pidfile import PidFile, patience
from mailapp.supervisor import on_signals

ADVICE = "It runs in the background: manage.py mailstatus, restartmail, stopmail."
_LOOK_SECONDS = 0.05


def start() -> str:
    """Start `runmail` in the background; return what it says once all parts are ready.

    Raise CommandError, with what it said, when it does not start.
    """
    log = Path(mail_settings().LOG_DIR) / "runmail.log"
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # it names who writes to whom
    with log.open("ab") as output:
        said_before = output.tell()
        with on_signals(signal.default_int_handler):
            banner, process = _start(output)
    if not banner:
        process.wait()
        raise CommandError(_reason(log.read_bytes()[said_before:].decode(errors="replace"), log))
    return banner


def _start(output: IO[bytes]) -> tuple[str, subprocess.Popen[bytes]]:
    """Start the server; return what it says when it is ready, "" when it ended."""
    process, line = Running.start(
        *("-m", "django", "runmail", "--ready-fd"),
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


def stop(pid_file: PidFile) -> str:
    """End what holds a pid file, in good order; return what became of it.

    Raise CommandError when it does not end, PidFileUnusable when we may not end it.
    """
    pid = pid_file.send(signal.SIGTERM)
    end = time.monotonic() + patience()
    while not pid_file.is_over(pid):
        if time.monotonic() > end:
            raise CommandError(f"{pid_file.path}: process {pid} was asked to end and does not.")
        time.sleep(_LOOK_SECONDS)
    if pid:
        return f"Process {pid} has ended."
    if left_by := pid_file.left_by():
        return f"Nothing runs here: process {left_by}, which {pid_file.path} names, was killed."
    return f"Nothing runs here: there is no {pid_file.path}."
