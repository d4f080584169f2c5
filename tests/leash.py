"""`python -m tests.leash COMMAND... FD`: a program that does not outlive who started it.

FD is one end of a socket. Once the other end is closed, by whoever holds it or because that was
killed, the program is ended.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading

_GRACE = 30  # seconds to end by itself


def main(command: list[str], line: socket.socket) -> int:
    """Run the program and return its exit code."""
    program = subprocess.Popen(command)
    threading.Thread(target=_end, args=(program, line), daemon=True).start()
    return program.wait()


def _end(program: subprocess.Popen[bytes], line: socket.socket) -> None:
    line.recv(1)
    program.terminate()
    try:
        program.wait(_GRACE)
    except subprocess.TimeoutExpired:
        program.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:-1], socket.socket(fileno=int(sys.argv[-1]))))
