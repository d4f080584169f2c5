"""Child processes: each inherits one end of a socket, and that end's end says that we are gone."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import IO, NamedTuple

from mailapp import systemd


class Running(NamedTuple):
    """A child process, and our end of the socket between us."""

    process: subprocess.Popen[bytes]
    line: socket.socket

    @classmethod
    def start(
        cls,
        *arguments: str,
        keep: Sequence[int] = (),
        output: IO[bytes] | None = None,
        **more: str,
    ) -> Running:
        """Run `python ARGUMENTS FD` for this project; FD is the child's end of the socket.

        It inherits the descriptors to `keep`, and has `more` in its environment. With an `output`
        it writes there and reads nothing.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, *arguments, str(theirs.fileno())],
                pass_fds=[theirs.fileno(), *keep],
                start_new_session=True,  # Ctrl-C reaches the parent alone
                env=environment(**more),
                stdin=subprocess.DEVNULL if output else None,
                stdout=output,
                stderr=output,
            )
        return cls(process, ours)


def environment(**more: str) -> dict[str, str]:
    """Our own environment for a child, with `more`.

    Python finds the project there as this process does, wherever that was started from.
    """
    return {**os.environ, **more, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


@contextlib.contextmanager
def supervised(fd: int | None) -> Iterator[Callable[[str], None]]:
    """In a child: give the function that says "ready", and end when the supervisor is gone."""
    if fd is None:
        yield lambda said: systemd.tell("READY=1")
        return
    ended = threading.Event()
    with socket.socket(fileno=fd) as line:
        threading.Thread(target=_end_with, args=(line, ended), daemon=True).start()
        try:
            yield lambda said: line.sendall(said.encode() + b"\n")
        finally:
            ended.set()
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)


def _end_with(line: socket.socket, ended: threading.Event) -> None:
    with contextlib.suppress(OSError):
        line.recv(1)
    if not ended.is_set():
        os.kill(os.getpid(), signal.SIGTERM)
