"""The peer: a Salmon that flips states in memory and answers through a smart host.

Run with salmon-mail and Jinja2 on the path: `python -m benchmarks.salmon_app RELAY FD`.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
from salmon import view
from salmon.routing import route, route_like
from salmon.server import Relay, SMTPReceiver

host, port = sys.argv[1].rsplit(":", 1)
relay = Relay(host=host, port=int(port))
view.LOADER = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=False
)


@route("talk@(host)", host="localhost")
def START(message: Any, host: str) -> Callable[..., Any]:
    answer(message)
    return TALKING


@route_like(START)
def TALKING(message: Any, host: str) -> Callable[..., Any]:
    answer(message)
    return START


def answer(message: Any) -> None:
    context = {
        "recipient": message.To,
        "author": message["From"],
        "subject": message["Subject"],
        "sender": message.From,
    }
    relay.deliver(
        view.respond(
            context,
            "benchmarks/answer.txt",
            From="%(recipient)s",
            To="%(sender)s",
            Subject="Re: %(subject)s",
        )
    )


def serve(line: socket.socket) -> None:
    """Say on `line` where we listen, then serve until its other end closes."""
    receiver = SMTPReceiver("127.0.0.1", 0)
    receiver.start()
    host, port = receiver.socket.getsockname()
    line.sendall(f"{host}:{port}\n".encode())
    line.recv(1)
    os._exit(0)  # its thread would go on


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[2])))
