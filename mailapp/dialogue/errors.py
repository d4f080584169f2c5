"""Where a session ended, and why."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType

from mailapp.errors import MailError


class Exit(IntEnum):
    """Exit codes that tell where a session ended; the numbers are those of swaks."""

    CONNECT = 2
    LOST = 6
    BANNER = 21
    HELO = 22
    MAIL = 23
    RCPT = 24
    DATA = 25
    DOT = 26
    QUIT = 27
    AUTH = 28
    TLS = 29
    HELO_AFTER_TLS = 32


class DialogueFailed(MailError):
    """The session did not get as far as it was asked to."""

    recipients: Mapping[str, str] = MappingProxyType({})  #: who were refused, and their replies

    def __init__(self, exit: Exit, reason: str) -> None:
        super().__init__(reason)
        self.exit = exit
        self.reason = reason


class Refused(DialogueFailed):
    """The server's reply was not the one that lets the session go on."""


class UnsafeCommand(MailError):
    """A command that we were asked to send holds a line break or NUL."""


def reason_of(error: Exception) -> str:
    """Return what an error of the socket says, in few words."""
    return getattr(error, "strerror", "") or str(error) or type(error).__name__
