"""Child processes: each inherits one end of a socket, and that end's end says that we are gone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import IO, NamedTuple


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
