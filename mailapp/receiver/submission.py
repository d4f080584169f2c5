"""Submission (RFC 6409): Django users write to our handlers, after STARTTLS and AUTH."""

from __future__ import annotations

import asyncio

from aiosmtpd.smtp import AuthResult, LoginPassword, Session
from django.contrib.auth import authenticate
from django.db import connection

from . import replies
from .listener import Listener
from .protocol import Dialogue
from .replies import Farewell, Refused
from .transaction import Transaction
from .wire import Wire


class SubmissionDialogue(Dialogue):
    """One session of a mail program, for whoever logs in as an active Django user."""

    COMMANDS = f"{Dialogue.COMMANDS} AUTH"
    COMMAND_OCTETS = 12288  # RFC 4954 4

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener)
        self.user = ""
        self.failed_logins = 0

    def _extensions(self) -> list[str]:
        words = super()._extensions()
        return [*words, "AUTH PLAIN LOGIN"] if self.tls else words

    async def smtp_MAIL(self, argument: str) -> None:
        if not self.user:
            raise Refused(replies.LOGIN_FIRST)
        await super().smtp_MAIL(argument)

    async def smtp_AUTH(self, argument: str) -> None:
        name, *initial = argument.split(" ")
        if not self.extended:
            raise Refused(replies.SAY_HELLO_FIRST)
        if not self.tls:
            raise Refused(replies.NEEDS_TLS)
        if self.user:
            raise Refused(replies.LOGGED_IN_ALREADY)
        exchange = {"PLAIN": self.auth_PLAIN, "LOGIN": self.auth_LOGIN}.get(name.upper())
        if exchange is None:
            raise Refused(replies.UNKNOWN_MECHANISM)
        counted = bool(self.peer) and not self.listener.sessions.trusts(self.peer)
        if counted and self.listener.sessions.failed_logins.too_many(self.peer):
            raise Refused(replies.LOGIN_LATER)
        self._prepare_exchange()
        understood = await exchange(self, [name, *initial])
        if not isinstance(understood.auth_data, LoginPassword):
            return  # aiosmtpd said why
        if await asyncio.to_thread(_is_user, understood.auth_data):
            self.user = understood.auth_data.login.decode()
            self.wire.say(replies.LOGGED_IN)
            return
        if counted:
            self.listener.sessions.failed_logins.add(self.peer)
        self.failed_logins += 1
        if self.failed_logins >= self.settings.LOGIN_TRIES:
            raise Farewell(replies.TOO_MANY_LOGINS)
        raise Refused(replies.WRONG_LOGIN)

    def _protocol(self, transaction: Transaction) -> str:
        return f"{super()._protocol(transaction)}A"

    # What aiosmtpd's exchanges ask for.

    def _prepare_exchange(self) -> None:
        self.session = Session(self.loop)
        self.session.peer = self.peer
        self._reader = _LineReader(self.wire)  # type: ignore[assignment]

    async def push(self, status: str | bytes) -> None:
        """Say what aiosmtpd's exchanges say."""
        self.wire.say(status.encode("ascii") if isinstance(status, str) else status)

    def _authenticate(self, mechanism: str, auth_data: LoginPassword) -> AuthResult:
        return AuthResult(success=True, auth_data=auth_data)  # smtp_AUTH checks it, in a thread


class _LineReader:
    """The wire as aiosmtpd wants to read it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def readline(self) -> bytes:
        return await self._wire.line()


def _is_user(credentials: LoginPassword) -> bool:
    """Check a password. Slow on purpose, and a query; not in the event loop."""
    try:
        name, password = credentials.login.decode(), credentials.password.decode()
        return authenticate(username=name, password=password) is not None
    except UnicodeDecodeError:
        return False
    finally:
        connection.close()
