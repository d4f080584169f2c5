"""Child processes: each inherits one end of a socket, and that end's end says that we are gone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import NamedTuple


class Running(NamedTuple):
    """A child process, and our end of the socket between us."""

    process: subprocess.Popen[bytes]
    line: socket.socket

    @classmethod
    def start(cls, *arguments: str) -> Running:
        """Run `python ARGUMENTS FD` for this project; FD is the child's end of the socket."""
        ours, theirs = socket.socketpair()
        # Python finds the project as this process does, wherever it was started from.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with theirs:
            process = subprocess.Popen(
                [sys.executable, *arguments, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C reaches the parent alone
                env=environment,
            )
        return cls(process, ours)
