"""What is to be said: with whom, how far, and which letter. No network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mailapp.endpoints import Endpoint


class Stage(StrEnum):
    """How far a session goes, in order."""

    CONNECT = "connect"
    HELO = "helo"
    STARTTLS = "starttls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    DOT = "dot"


class Protocol(StrEnum):
    SMTP = "smtp"
    ESMTP = "esmtp"
    LMTP = "lmtp"

    @property
    def greeting(self) -> str:
        return {"smtp": "HELO", "esmtp": "EHLO", "lmtp": "LHLO"}[self]


class Tls(StrEnum):
    """When a session is encrypted."""

    NONE = "none"
    STARTTLS = "starttls"
    IMPLICIT = "implicit"


@dataclass(frozen=True)
class Login:
    user: str
    password: str
    mechanism: str = ""  #: PLAIN or LOGIN; "" takes the first of them that the server offers


@dataclass(frozen=True, kw_only=True)
class Plan:
    """With whom a session is held, how, and how far."""

    server: Endpoint | Path  #: a Path is a Unix socket
    helo: str
    protocol: Protocol = Protocol.ESMTP
    tls: Tls = Tls.NONE
    verify: bool = True
    login: Login | None = None
    quit_after: Stage = Stage.DOT
    timeout: float = 30


@dataclass(frozen=True, kw_only=True)
class Letter:
    """An envelope and the message in it."""

    sender: str  #: `""` is the null sender
    recipients: Sequence[str]
    content: bytes
    notify: str = ""  #: NEVER, or some of SUCCESS,FAILURE,DELAY (RFC 3461 4.1)
    ret: str = ""  #: FULL or HDRS (RFC 3461 4.3)
