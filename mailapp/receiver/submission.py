"""Submission (RFC 6409): Django users write to our handlers, after STARTTLS and AUTH."""

from __future__ import annotations

from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, cast

from aiosmtpd.smtp import AuthResult, LoginPassword, Session
from django.contrib.auth import authenticate
from django.db import connection

from . import replies
from .listener import Listener
from .protocol import Dialogue
from .replies import Farewell, Refused
from .transaction import Transaction
from .wire import Wire

# Of their own and few, so that guesses keep neither threads nor cores from the mail.
_checks = ThreadPoolExecutor(2, thread_name_prefix="logins")


class SubmissionDialogue(Dialogue):
    """One session of a mail program, for whoever logs in as an active Django user."""

    COMMANDS = f"{Dialogue.COMMANDS} AUTH"
    OFFERS_AUTH = True
    LONGER_COMMANDS: ClassVar[dict[str, int]] = {
        "MAIL": Dialogue.LONGER_COMMANDS["MAIL"] + 500,  # RFC 4954 3
        "AUTH": 12288,  # RFC 4954 4
    }

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
        if not name or not argument.isascii() or len(initial) > 1:
            raise Refused(replies.BAD_ARGUMENTS)
        if not self.extended:
            raise Refused(replies.SAY_HELLO_FIRST)
        if not self.tls:
            raise Refused(replies.NEEDS_TLS)
        if self.user:
            raise Refused(replies.LOGGED_IN_ALREADY)
        exchange = {"PLAIN": self.auth_PLAIN, "LOGIN": self.auth_LOGIN}.get(name.upper())
        if exchange is None:
            raise Refused(replies.UNKNOWN_MECHANISM)
        self._prepare_exchange()
        understood = await exchange(self, [name, *initial])
        await self._log_in(cast(LoginPassword, understood.auth_data))

    async def _log_in(self, credentials: LoginPassword) -> None:
        if await self._is_right(credentials):
            self.user = credentials.login.decode()
            self.wire.say(replies.LOGGED_IN)
            return
        self.failed_logins += 1
        if self.failed_logins >= self.settings.LOGIN_TRIES:
            raise Farewell(replies.TOO_MANY_LOGINS)
        raise Refused(replies.WRONG_LOGIN)

    async def _is_right(self, credentials: LoginPassword) -> bool:
        """Check a password where it takes no time from others; raise Refused after many tries."""
        sessions, failed = self.listener.sessions, False
        counted = bool(self.peer) and not sessions.trusts(self.peer)
        if counted and not sessions.failed_logins.begin(self.peer):
            raise Refused(replies.LOGIN_LATER)
        try:
            failed = not await self.loop.run_in_executor(_checks, _is_user, credentials)
        finally:
            if counted and not failed:
                sessions.failed_logins.give_back(self.peer)
        return not failed

    def _protocol(self, transaction: Transaction) -> str:
        return f"{super()._protocol(transaction)}A"

    async def auth_PLAIN(self, _: object, args: list[str]) -> AuthResult:
        """Read the one answer of PLAIN (RFC 4616 2); nobody may act for somebody else."""
        response = _decoded(args[1]) if len(args) > 1 else await self.challenge_auth("")
        parts = cast(bytes, response).split(b"\0")
        if len(parts) != 3:
            raise Refused(replies.BAD_EXCHANGE)
        acted_for, name, password = parts
        if acted_for not in (b"", name):
            raise Refused(replies.WRONG_LOGIN)
        return self._authenticate("PLAIN", LoginPassword(name, password))

    # What aiosmtpd's exchanges ask for.

    def _prepare_exchange(self) -> None:
        self.session = Session(self.loop)
        self.session.peer = self.peer
        self._reader = _LineReader(self.wire)  # type: ignore[assignment]

    async def push(self, status: str | bytes) -> None:
        """Say what aiosmtpd's exchanges say; raise Refused when they refuse."""
        reply = status.encode("ascii") if isinstance(status, str) else status
        if reply.startswith(b"5"):
            raise Refused(reply)
        self.wire.say(reply)

    def _authenticate(self, mechanism: str, auth_data: LoginPassword) -> AuthResult:
        return AuthResult(success=True, auth_data=auth_data)  # to be checked in a thread


class _LineReader:
    """The wire as aiosmtpd wants to read it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def readline(self) -> bytes:
        line = await self._wire.line()
        if not line.endswith(b"\r\n"):
            raise Farewell(replies.BAD_LINE)
        if not (line.isascii() and line[:-2].decode().isprintable()):
            raise Refused(replies.BAD_LINE)
        return line


def _decoded(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError:
        raise Refused(replies.BAD_EXCHANGE) from None


def _is_user(credentials: LoginPassword) -> bool:
    """Check a password. Slow on purpose, and a query; not in the event loop."""
    try:
        name, password = credentials.login.decode(), credentials.password.decode()
        return authenticate(username=name, password=password) is not None
    except UnicodeDecodeError:
        return False
    finally:
        connection.close()
