"""The dialogue with one client: commands in, replies out (RFC 5321)."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, ClassVar, cast

from aiosmtpd.smtp import SMTP

from mailapp.addresses import at_host, take_path
from mailapp.errors import BadAddress
from mailapp.models import NewMail

from . import proxy, replies, tls
from .data import DataReader, has_too_many_hops
from .limits import is_in
from .replies import Farewell, Refused
from .transaction import Transaction, read_mail_parameters
from .wire import HungUp, Wire

if TYPE_CHECKING:
    from .listener import Listener

logger = logging.getLogger(__name__)

_COMMAND_OCTETS = 512  # RFC 5321 4.5.3.1.4
_LOGGED_OCTETS = 320
_TLS_HELLO = 0x16  # the type of a TLS handshake record; no command begins with it
_SURPLUS = 10  # times as many recipients as may be: so many more are told to come again
_COMMANDS_AT_ONCE = 50  # that one client has sent ahead, before the others have their turn
# A browser sends what a page likes, our commands too: as the method, then as lines of the body.
_HTTP = re.compile(
    rb"(?:CONNECT|DELETE|GET|HEAD|LOCK|MKCOL|M-SEARCH|NOTIFY|OPTIONS|PATCH|POST|PRI|PROPFIND"
    rb"|PROPPATCH|PUT|REPORT|SEARCH|SUBSCRIBE|TRACE|UNLOCK)(?![!-~])"
    rb"|[^\n]* HTTP/\d[.\d]*\s*$",
    re.IGNORECASE,
)
_NOT_IMPLEMENTED = {"ATRN", "AUTH", "BURL", "ETRN", "EXPN", "SAML", "SEND", "SOML", "TURN"}
_JUNK = {"EHLO", "HELO", "HELP", "LHLO", "NOOP", "RSET", "VRFY"}


Method = Callable[["Dialogue", str], Awaitable[None]]


class Dialogue(SMTP):
    """One SMTP session.

    aiosmtpd gives the convention that `smtp_X` is command X, and the exchanges of AUTH.
    Reading, writing and every command of mail are our own.
    """

    COMMANDS: ClassVar[str] = "EHLO HELO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT BDAT STARTTLS"
    LONGER_COMMANDS: ClassVar[dict[str, int]] = {
        # SIZE, BODY and SMTPUTF8: RFC 1870 3, 6152 2, 6531 3.1.
        "MAIL": _COMMAND_OCTETS + 26 + 17 + 10,
    }
    GREETING: ClassVar[str] = "ESMTP"
    OFFERS_AUTH: ClassVar[bool] = False
    ENDLESS_CONTENT: ClassVar[bytes] = replies.ENDLESS_CONTENT
    wire: Wire
    task: asyncio.Task[None]

    def __init__(self, listener: Listener) -> None:
        # SMTP.__init__ looks its own methods up by `inspect`: 0.25 ms for each connection.
        self.loop = asyncio.get_running_loop()
        asyncio.StreamReaderProtocol.__init__(self, None, loop=self.loop)  # type: ignore[arg-type]
        self.listener = listener
        self.settings = listener.settings
        self.peer = ""  #: the address of the client; "" on a Unix socket
        self.tls = ""  #: what protects the session; "" when nothing does
        self.helo = ""
        self.extended = False
        self.transaction: Transaction | None = None
        self.commands = self.errors = self.junk = 0
        self.began = self.turn_began = self.loop.time()
        self.content_began: float | None = None  #: when the 354 was said
        self.content_from = 0  #: the octets that had come in by then
        self.stored: int | None = None  #: the mail whose 250 the client may not have heard
        self.stored_from = 0  #: the octets that had come in by then
        self.origin = ""  #: the address that it counts for; "" when it counts for none

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.wire = Wire(self.loop, cast(asyncio.Transport, transport))
        self.peer = _peer(transport)
        self.listener.sessions.enter(self)
        self.task = self.loop.create_task(self._handle_client())

    def data_received(self, data: bytes) -> None:
        self.wire.feed(data)

    def pause_writing(self) -> None:
        self.wire.pause_writing()

    def resume_writing(self) -> None:
        self.wire.resume_writing()

    def eof_received(self) -> bool:
        self.wire.hang_up()
        # A client that half-closed still hears what became of its mail; with TLS none does so.
        return not (self.tls or self.listener.tls_at_once)

    def connection_lost(self, error: Exception | None) -> None:
        self.listener.sessions.leave(self)
        self.wire.lost()
        self._note_unheard()

    # The course of a session.

    async def _handle_client(self) -> None:
        try:
            await self._arrive()
            while True:
                for _ in range(_COMMANDS_AT_ONCE):
                    await self._obey(await self._next_line())
                await asyncio.sleep(0)
        except Farewell as farewell:
            await self.wire.take_leave(farewell.reply)
        except HungUp:
            pass
        except Exception:
            await self.wire.take_leave(self._log_error())
        finally:
            self.wire.close()

    async def _arrive(self) -> None:
        if is_in(self.peer, self.listener.proxies):
            self.peer = await proxy.client_behind(self.peer, self.wire)
        if refusal := self.listener.refusal(self):
            if not self.listener.tls_at_once:  # a client that waits for TLS would not understand
                self.wire.say(refusal)
            raise HungUp
        if self.listener.tls_at_once:
            await self._begin_tls(await self.wire.piece() if self.wire.waiting else b"")
        if await self.wire.hears_within(self.settings.GREET_SECONDS):
            raise Farewell(replies.NOT_IN_SYNC)
        self.wire.say(f"220 {self.listener.hostname} {self.GREETING}".encode())

    async def _next_line(self) -> bytes:
        self.turn_began = self.loop.time()
        if self.listener.sessions.draining and self.transaction is None:
            raise Farewell(replies.SHUTTING_DOWN)
        while (line := self.wire.next_line()) is None:
            if self.wire.waiting:
                self._look_at_half_a_line()
            await self.wire.more()
        return line

    def _look_at_half_a_line(self) -> None:
        """Raise Farewell when it will never be a command."""
        if self.wire.first == _TLS_HELLO:
            raise Farewell(replies.NOT_SMTP)
        if self.wire.broke_off:
            raise Farewell(replies.BAD_LINE)

    async def _obey(self, line: bytes) -> None:
        self.commands += 1
        if self.commands > self.settings.MAX_COMMANDS:
            raise Farewell(replies.TOO_MANY_COMMANDS)
        try:
            name, argument = _read_command(line)
            if len(line) > _COMMAND_OCTETS:
                self._check_length(line, name)
            await self._method(name)(self, argument)
        except Refused as refused:
            self._refuse(refused.reply, line)
        except BadAddress as error:
            self._refuse(error.reply.encode(), line)
        except (Farewell, HungUp):
            raise
        except Exception:
            self.wire.say(self._log_error())

    def _check_length(self, line: bytes, name: str) -> None:
        if len(line) > self.LONGER_COMMANDS.get(name, _COMMAND_OCTETS):
            raise Refused(replies.LINE_TOO_LONG)

    def _method(self, name: str) -> Method:
        """Return what obeys a command; raise Refused or Farewell when nothing does."""
        if name in _JUNK:
            self.junk += 1
            if self.junk > self.settings.MAX_JUNK_COMMANDS:
                raise Farewell(replies.TOO_MANY_COMMANDS)
        if method := self.listener.methods.get(name):
            return method
        if name in _NOT_IMPLEMENTED:
            raise Refused(replies.NOT_IMPLEMENTED)
        raise Refused(replies.UNKNOWN_COMMAND)

    def _refuse(self, reply: bytes, line: bytes) -> None:
        """Say no to a command; raise Farewell when that is no answer, or one too many."""
        if _is_other_protocol(line):
            raise Farewell(replies.NOT_SMTP)
        self._count_refusal(reply, line)
        self.wire.say(reply)

    def _count_refusal(self, reply: bytes, line: bytes) -> None:
        """Log a refusal, and count it where the client is to blame; raise Farewell at the limit."""
        logger.info(
            "Refused %s (%r): %s, to %s", self.peer, self.helo, reply.decode(), _loggable(line)
        )
        self.errors += reply.startswith(b"5")
        if self.errors > self.settings.MAX_ERRORS:
            raise Farewell(replies.TOO_MANY_ERRORS)

    def _log_error(self) -> bytes:
        """Log the exception that is being handled under an id; return the reply with that id."""
        number = secrets.token_hex(6)
        logger.exception("Error %s in a session with %s", number, self.peer)
        return replies.with_id(replies.LOCAL_ERROR, number)

    # The commands.

    async def smtp_EHLO(self, argument: str) -> None:
        self._take_hello(argument)
        self.extended = True
        *lines, last = [self.listener.hostname, *self._extensions()]
        self.wire.say(*(f"250-{line}".encode() for line in lines), f"250 {last}".encode())

    async def smtp_HELO(self, argument: str) -> None:
        self._take_hello(argument)
        self.extended = False
        self.wire.say(f"250 {self.listener.hostname}".encode())

    def _take_hello(self, name: str) -> None:
        if not name or not name.isascii():
            raise Refused(replies.BAD_ARGUMENTS)
        self.transaction = None
        self.helo = name[:255]

    def _extensions(self) -> list[str]:
        words = [
            f"SIZE {self.settings.MAX_MESSAGE_SIZE}",
            "8BITMIME",
            "PIPELINING",
            "SMTPUTF8",
            "ENHANCEDSTATUSCODES",
        ]
        if self.listener.tls is not None and not self.tls:
            words.append("STARTTLS")
        return words

    async def smtp_MAIL(self, argument: str) -> None:
        if not self.helo:
            raise Refused(replies.SAY_HELLO_FIRST)
        if self.transaction is not None:
            raise Refused(replies.NESTED_MAIL)
        try:
            sender, rest = take_path(_after("FROM:", argument))
        except BadAddress:
            raise Refused(replies.BAD_SENDER) from None
        parameters = read_mail_parameters(rest, extended=self.extended, with_auth=self.OFFERS_AUTH)
        if not (parameters.utf8 or argument.isascii()):
            raise Refused(replies.NEEDS_SMTPUTF8)
        if parameters.size > self.settings.MAX_MESSAGE_SIZE:
            raise Refused(replies.TOO_BIG)
        if busy := self.listener.destination.unavailable():
            raise Refused(busy)
        self.transaction = Transaction(sender, parameters.utf8)
        self.wire.say(replies.SENDER_OK)

    async def smtp_RCPT(self, argument: str) -> None:
        transaction = self.transaction
        if transaction is None:
            raise Refused(replies.MAIL_FIRST)
        recipient, rest = take_path(_after("TO:", argument))
        if rest:
            raise Refused(replies.UNKNOWN_PARAMETER if rest[0] == " " else replies.BAD_ARGUMENTS)
        if not recipient:
            raise Refused(replies.NULL_RECIPIENT)
        if not (transaction.utf8 or argument.isascii()):
            raise Refused(replies.NEEDS_SMTPUTF8)
        recipient = at_host(recipient, self.settings.HOSTS[0])
        if transaction.accepted >= self.settings.MAX_RECIPIENTS:
            return self._put_off_recipient(transaction)
        if refusal := await self.listener.destination.refusal(recipient):
            raise Refused(refusal)
        transaction.add(recipient)
        return self.wire.say(replies.RECIPIENT_OK)

    def _put_off_recipient(self, transaction: Transaction) -> None:
        """Refuse a recipient that is one too many; only the first of them is logged.

        A client that has sent a thousand ahead comes back for the rest (RFC 5321 4.5.3.1.10);
        with more than that it does not mean to.
        """
        transaction.surplus += 1
        if transaction.surplus == 1:
            raise Refused(replies.TOO_MANY_RECIPIENTS)
        if transaction.surplus > _SURPLUS * self.settings.MAX_RECIPIENTS:
            raise Farewell(replies.TOO_MANY_COMMANDS)
        self.wire.say(replies.TOO_MANY_RECIPIENTS)

    async def smtp_DATA(self, argument: str) -> None:
        if self.wire.waiting:
            # Content that did not wait for the 354: DATA ends a group (RFC 2920 3.1).
            raise Farewell(replies.NOT_IN_SYNC)
        if argument:
            raise Refused(replies.BAD_ARGUMENTS)
        transaction = self.transaction
        if transaction is None:
            raise Refused(replies.MAIL_FIRST)
        if not transaction.accepted:
            raise Refused(replies.RECIPIENT_FIRST)
        reader = self.listener.content_reader()
        self.wire.say(replies.START_DATA)
        try:
            await self._read_content(reader)
            reply = await self._store(transaction, reader)
        finally:
            self.transaction = None
            reader.close()
        self._answer_content(transaction, reply)

    async def _read_content(self, reader: DataReader) -> None:
        self.content_began, self.content_from = self.loop.time(), self.wire.octets
        rest = None
        try:
            while rest is None:
                rest = reader.feed(await self.wire.piece())
                if rest is None and reader.endless:
                    raise Farewell(self.ENDLESS_CONTENT)
        except (Farewell, HungUp):
            raise
        except Exception:
            raise Farewell(self._log_error()) from None  # else the rest would run as commands
        self.content_began = None
        self.wire.give_back(rest)

    async def _store(self, transaction: Transaction, reader: DataReader) -> bytes:
        """Store the mail that was read, or refuse it; return the reply."""
        if refusal := _content_refusal(reader):
            if self.wire.waiting and not self.extended:
                raise Farewell(refusal)  # HELO offers no pipelining, so what follows is no command
            return refusal
        mail = NewMail(
            raw=reader.content,
            sender=transaction.sender,
            recipients=transaction.recipients,
            protocol=self._protocol(transaction),
            peer=self.peer,
            helo=self.helo,
            tls=self.tls,
        )
        reply, self.stored = await self.listener.destination.store(mail, reader.spool)
        self.stored_from = self.wire.octets
        logger.debug("From %r to %r by %s: %r", mail.sender, mail.recipients, self.peer, reply)
        if self.wire.hung_up:
            self._note_unheard()
        return reply

    def _note_unheard(self) -> None:
        """Have the last mail recognised when it comes again: the client heard no 250 for it.

        Whoever has sent something since then is taken to have heard it.
        """
        if self.stored is not None and self.wire.octets == self.stored_from:
            self.listener.destination.unheard(self.stored)
        self.stored = None

    def _answer_content(self, transaction: Transaction, reply: bytes) -> None:
        if reply.startswith(b"250"):
            self.errors = self.junk = 0
        else:
            self._count_refusal(reply, b"DATA")
        self._say_of_content(transaction, reply)

    def _say_of_content(self, transaction: Transaction, reply: bytes) -> None:
        self.wire.say(reply)

    def _protocol(self, transaction: Transaction) -> str:
        """The word for the `with` of a Received field (RFC 3848, RFC 6531)."""
        if not self.extended:
            return "SMTP"
        word = "UTF8SMTP" if transaction.utf8 else "ESMTP"
        return f"{word}S" if self.tls else word

    async def smtp_RSET(self, argument: str) -> None:
        if argument:
            raise Refused(replies.BAD_ARGUMENTS)
        self.transaction = None
        self.wire.say(replies.OK)

    async def smtp_NOOP(self, argument: str) -> None:
        self.wire.say(replies.OK)

    async def smtp_VRFY(self, argument: str) -> None:
        if not argument:
            raise Refused(replies.BAD_ARGUMENTS)
        self.wire.say(replies.CANNOT_VERIFY)

    async def smtp_HELP(self, argument: str) -> None:
        self.wire.say(replies.HELP)

    async def smtp_QUIT(self, argument: str) -> None:
        if argument:
            raise Refused(replies.BAD_ARGUMENTS)
        self.wire.say(replies.BYE)
        raise HungUp

    async def smtp_BDAT(self, argument: str) -> None:
        # It is not offered, and the content that follows must not run as commands.
        raise Farewell(replies.NOT_IMPLEMENTED)

    async def smtp_STARTTLS(self, argument: str) -> None:
        if argument:
            raise Refused(replies.BAD_ARGUMENTS)
        if self.tls:
            raise Refused(replies.TLS_ALREADY)
        if self.listener.tls is None:
            raise Refused(replies.NOT_IMPLEMENTED)
        self.wire.say(replies.START_TLS)
        self.wire.flush()
        self.wire.drop()  # what came in the clear must not count as said under TLS (RFC 3207 5)
        await self._begin_tls()
        self.transaction, self.helo, self.extended = None, "", False

    async def _begin_tls(self, heard: bytes = b"") -> None:
        """Speak TLS from here on; `heard` is what came in of it already. Raise HungUp."""
        transport = None
        try:
            transport = await tls.begin(
                self.wire.transport,
                self,
                cast(ssl.SSLContext, self.listener.tls),
                heard=heard,
                patience=self.settings.READ_TIMEOUT,
            )
        except OSError as error:  # also what ssl raises
            logger.info("TLS with %s failed: %r", self.peer, error)
        if transport is None:
            self.connection_lost(None)
            raise HungUp
        self.wire.transport = transport
        self.tls = tls.facts(transport)


def _read_command(line: bytes) -> tuple[str, str]:
    """Return the name of a command in capitals and its argument; raise Refused or Farewell."""
    if line[-2:] != b"\r\n":
        # A client that ends lines in its own way may mean other lines than we see.
        raise Farewell(replies.NOT_SMTP if _is_other_protocol(line) else replies.BAD_LINE)
    try:
        text = line[:-2].decode()
    except UnicodeDecodeError:
        raise Refused(replies.BAD_LINE) from None
    if not text.isprintable():
        raise Refused(replies.BAD_LINE)
    if " HTTP/" in text and _is_other_protocol(line):
        raise Farewell(replies.NOT_SMTP)
    name, _, argument = text.partition(" ")
    if not name.isascii():  # letters such as \u017f are ASCII in capitals
        raise Refused(replies.UNKNOWN_COMMAND)
    return name.upper(), argument.strip(" ")


def _is_other_protocol(line: bytes) -> bool:
    return line[0] == _TLS_HELLO or _HTTP.match(line) is not None


def _after(keyword: str, argument: str) -> str:
    """Return what follows `FROM:` or `TO:`, and blanks that many clients put there."""
    path = argument[len(keyword) :].lstrip(" ")
    if argument[: len(keyword)].upper() != keyword or not path.startswith("<"):
        raise Refused(replies.BAD_ARGUMENTS)
    return path


def _peer(transport: asyncio.BaseTransport) -> str:
    name = transport.get_extra_info("peername")
    return name[0] if isinstance(name, tuple) else ""


def _loggable(line: bytes) -> str:
    """What of a command may stand in a log: addresses, but nothing that may be a password."""
    verb = line[:4].upper()
    if verb in (b"MAIL", b"RCPT"):
        return repr(line[:_LOGGED_OCTETS].decode(errors="replace").strip())
    return verb.decode() if verb == b"DATA" else "a command"


def _content_refusal(reader: DataReader) -> bytes | None:
    if reader.too_big:
        return replies.TOO_BIG
    if reader.malformed:
        return replies.BARE_LINE_ENDS
    if reader.spool_error is not None:
        logger.error("A mail could not be spooled: %r", reader.spool_error)
        return replies.DISK_LOW
    if has_too_many_hops(reader.content):
        return replies.TOO_MANY_HOPS
    return None
