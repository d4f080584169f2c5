"""Holds a session over a connection of its own: with one letter, or with many."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from mailapp.endpoints import Endpoint

from .commands import Session
from .errors import DialogueFailed, Exit, Refused, reason_of
from .plan import Letter, Plan
from .transcript import Transcript
from .wire import Wire


def hold(plan: Plan, letter: Letter, transcript: Transcript) -> None:
    """Go through a session as far as `plan` says; raise DialogueFailed where it ended before."""
    with _connected(plan, transcript) as wire:
        Session(plan, wire).hold(letter)


@contextlib.contextmanager
def session(plan: Plan, transcript: Transcript) -> Iterator[Session]:
    """Open a session to send letters in; raise DialogueFailed if that cannot be.

    What the server says to the QUIT at the end changes nothing of what it took before.
    """
    with _connected(plan, transcript) as wire:
        made = Session(plan, wire)
        try:
            made.open()
            yield made
        except Refused:
            made.part()
            raise
        made.part()


@contextlib.contextmanager
def _connected(plan: Plan, transcript: Transcript) -> Iterator[Wire]:
    transcript.note(f"Trying {plan.server}")
    try:
        connection = _connect(plan.server, plan.timeout)
    except (OSError, UnicodeError) as error:  # UnicodeError: this is no host's name
        raise DialogueFailed(
            Exit.CONNECT, f"Cannot connect to {plan.server}: {reason_of(error)}"
        ) from error
    wire = Wire(connection, transcript)
    try:
        transcript.note(f"Connected to {plan.server}")
        yield wire
    finally:
        wire.connection.close()


def _connect(server: Endpoint | Path, timeout: float) -> socket.socket:
    if isinstance(server, Endpoint):
        return socket.create_connection(server, timeout)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(str(server))
    except OSError:
        connection.close()
        raise
    return connection
