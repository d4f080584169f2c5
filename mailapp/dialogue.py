"""The client's side of one SMTP or LMTP session, shown as it crosses the wire."""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from pathlib import Path
from types import MappingProxyType

from mailapp.amounts import amount
from mailapp.endpoints import Endpoint
from mailapp.errors import MailError, UnsafeHeader

CRLF = b"\r\n"
_LINES_SHOWN = 40  # of a message
_COLUMNS_SHOWN = 300
_LONGEST_LINE = 65536


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


@dataclass(frozen=True)
class Reply:
    """What a server said to one command (RFC 5321 4.2)."""

    lines: Sequence[bytes]

    @property
    def code(self) -> str:
        return self.text[:3]

    @property
    def text(self) -> str:
        """The last line."""
        return printable(self.lines[-1])

    @property
    def keywords(self) -> dict[str, list[str]]:
        """The extensions that an EHLO reply offers, with their parameters, in capitals.

        >>> Reply([b"250-mx.example.com", b"250-AUTH PLAIN login", b"250 PIPELINING"]).keywords
        {'AUTH': ['PLAIN', 'LOGIN'], 'PIPELINING': []}
        """
        words = [line[4:].decode("ascii", "replace").upper().split() for line in self.lines[1:]]
        return {keyword: parameters for keyword, *parameters in filter(None, words)}


def printable(line: bytes) -> str:
    r"""Return a line as text with all that a terminal would act on escaped.

    >>> printable(b"250 \x1b[2Jdone \xff")
    '250 \\x1b[2Jdone \\xff'
    """
    text = line.decode("utf-8", "backslashreplace")
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def on_the_wire(content: bytes) -> bytes:
    r"""Return a message as DATA carries it: lines end in CRLF, a leading dot is doubled.

    >>> on_the_wire(b"one\n.two")
    b'one\r\n..two\r\n'
    """
    lines = re.sub(rb"(?<!\r)\n", CRLF, content)
    if lines and not lines.endswith(CRLF):
        lines += CRLF
    return re.sub(rb"^\.", b"..", lines, flags=re.MULTILINE)


class Transcript:
    """Shows a session line by line, with the marks that swaks made customary.

    ` -> ` is sent, `<-  ` received, `<** ` a refusal; `~` stands for `-` under TLS. `=== `
    is a note and `*** ` an error of our own. Before the last line of a reply stands how
    long it took.
    """

    def __init__(
        self, write: Callable[[str], object], *, quiet: bool = False, hide_body: bool = False
    ) -> None:
        """`quiet` leaves only what went wrong; `hide_body` only the header of the message."""
        self.encrypted = False
        self._write = write
        self._quiet = quiet
        self._hide_body = hide_body

    def note(self, text: str) -> None:
        self._show(f"=== {text}")

    def error(self, text: str) -> None:
        self._show(f"*** {text}", wrong=True)

    def sent(self, line: bytes) -> None:
        self._show(f" {'~' if self.encrypted else '-'}> {printable(line)}")

    def received(self, line: bytes, *, wanted: bool, seconds: float | None = None) -> None:
        """`seconds` is given for the last line of a reply."""
        dash = "~" if self.encrypted else "-"
        mark = f"<{dash} " if wanted else "<~*" if self.encrypted else "<**"
        self._show(f"{mark} {printable(line)}", seconds, wrong=not wanted)

    def sent_message(self, wire: bytes) -> None:
        """Show a message, abridged when it is long."""
        if self._quiet:
            return
        head, blank, _ = wire.partition(CRLF + CRLF)
        shown = head + CRLF if self._hide_body and blank else wire
        *lines, _ = shown.split(CRLF, _LINES_SHOWN)
        for line in lines:
            self.sent(line if len(line) <= _COLUMNS_SHOWN else line[:_COLUMNS_SHOWN] + b" ...")
        if left := wire.count(CRLF) - len(lines):
            self.note(f"{amount(left, 'more line')}, {amount(len(wire), 'octet')} in all")

    def _show(self, text: str, seconds: float | None = None, *, wrong: bool = False) -> None:
        if wrong or not self._quiet:
            took = "" if seconds is None else f"{seconds * 1000:.1f} ms"
            self._write(f"{took:>11} {text}")


class Wire:
    """A connected socket that shows every line it carries."""

    def __init__(self, connection: socket.socket, transcript: Transcript) -> None:
        self.connection = connection
        self.transcript = transcript
        self._unread = b""
        self._since = time.perf_counter()

    def say(self, line: bytes, *, shown: bytes | None = None) -> None:
        """Send one command; `shown` stands for it on the terminal.

        Raise UnsafeHeader, and send nothing, if it would be more than one line.
        """
        if re.search(rb"[\r\n\0]", line):
            raise UnsafeHeader(printable(line))
        self.transcript.sent(line if shown is None else shown)
        self._send(line + CRLF)

    def say_message(self, wire: bytes) -> None:
        """Send a message in the form of `on_the_wire` and the dot that ends it."""
        self.transcript.sent_message(wire)
        self.transcript.sent(b".")
        self._send(wire + b"." + CRLF)

    def _send(self, data: bytes) -> None:
        # A server that refuses in the middle of a message closes: its reply is still to be read.
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            self.connection.sendall(data)
        self._since = time.perf_counter()

    def hear(self, wanted: str, exit: Exit) -> Reply:
        """Read one reply; raise Refused unless its code starts with `wanted`.

        Raise DialogueFailed with `exit` if none comes in time, with LOST if the
        connection ends first.
        """
        lines = [self._line(exit)]
        while re.match(rb"\d{3}-", lines[-1]):
            self._show_received(lines[-1], wanted)
            lines.append(self._line(exit))
        now = time.perf_counter()
        self._show_received(lines[-1], wanted, now - self._since)
        self._since = now
        reply = Reply(lines)
        if not reply.code.startswith(wanted):
            raise Refused(exit, reply.text)
        return reply

    def _show_received(self, line: bytes, wanted: str, seconds: float | None = None) -> None:
        welcome = line.startswith(wanted.encode("ascii"))
        self.transcript.received(line, wanted=welcome, seconds=seconds)

    def _line(self, exit: Exit) -> bytes:
        while b"\n" not in self._unread:
            if len(self._unread) > _LONGEST_LINE:
                raise DialogueFailed(exit, "The server sent an endless line")
            self._unread += self._receive(exit)
        line, _, self._unread = self._unread.partition(b"\n")
        return line.removesuffix(b"\r")

    def _receive(self, exit: Exit) -> bytes:
        try:
            data = self.connection.recv(8192)
        except TimeoutError:
            timeout = self.connection.gettimeout()
            raise DialogueFailed(exit, f"No reply within {timeout:g} seconds") from None
        except OSError as error:
            raise DialogueFailed(Exit.LOST, f"Connection lost: {_reason(error)}") from error
        if not data:
            raise DialogueFailed(Exit.LOST, "The server closed the connection")
        return data

    def start_tls(self, verify: bool, host: str) -> None:
        """Encrypt from here on; raise DialogueFailed if that cannot be."""
        if self._unread:
            raise DialogueFailed(Exit.TLS, "The server sent more before the TLS handshake")
        try:
            encrypted = _tls_context(verify).wrap_socket(self.connection, server_hostname=host)
        except OSError as error:
            raise DialogueFailed(Exit.TLS, f"No TLS: {_reason(error)}") from error
        self.connection = encrypted
        self.transcript.encrypted = True
        cipher = encrypted.cipher() or ("",)
        trust = "verified" if verify else "not verified"
        self.transcript.note(f"{encrypted.version()} {cipher[0]}, certificate {trust}")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", "") or str(error) or type(error).__name__


def _tls_context(verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


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
            Exit.CONNECT, f"Cannot connect to {plan.server}: {_reason(error)}"
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


class Session:
    """The commands of one session, in order."""

    def __init__(self, plan: Plan, wire: Wire) -> None:
        self.plan = plan
        self.wire = wire
        self.offers: dict[str, list[str]] = {}

    def open(self) -> None:
        """Go on until letters can be sent; raise DialogueFailed if that cannot be."""
        for step in self.first_steps().values():
            step()

    def first_steps(self) -> dict[Stage, Callable[[], None]]:
        return {
            Stage.CONNECT: self.connect,
            Stage.HELO: self.greet,
            Stage.STARTTLS: self.starttls,
            Stage.AUTH: self.authenticate,
        }

    def send(self, letter: Letter, *, to_all: bool = False) -> Mapping[str, str]:
        """Send a letter; return the recipients that were refused, each with its reply.

        Raise Refused if nobody gets it, or with `to_all`, if somebody would not; more letters
        may follow. Raise DialogueFailed if it is not known who gets it.
        """
        transaction = _Transaction(self, letter, to_all=to_all)
        try:
            for step in transaction.steps().values():
                step()
        except Refused:
            with contextlib.suppress(DialogueFailed):  # the next letter will tell
                self.ask("RSET", "250", Exit.MAIL)
            raise
        return transaction.refused

    def part(self) -> None:
        """Say QUIT, whatever the server says to that."""
        with contextlib.suppress(DialogueFailed):
            self.quit()

    def quit(self) -> None:
        self.ask("QUIT", "221", Exit.QUIT)

    def hold(self, letter: Letter) -> None:
        """Go as far as the plan says, with one letter."""
        try:
            for stage, step in {**self.first_steps(), **_Transaction(self, letter).steps()}.items():
                step()
                if stage is self.plan.quit_after:
                    break
        except Refused:
            self.part()
            raise
        if self.plan.quit_after is Stage.DATA:  # nothing but the message may follow a 354
            self.wire.transcript.note("Dropping the connection")
        else:
            self.quit()

    def ask(self, command: str, wanted: str, exit: Exit, *, shown: str | None = None) -> Reply:
        self.wire.say(command.encode(), shown=None if shown is None else shown.encode())
        return self.wire.hear(wanted, exit)

    @property
    def host(self) -> str:
        server = self.plan.server
        return server.host if isinstance(server, Endpoint) else "localhost"

    def connect(self) -> None:
        if self.plan.tls is Tls.IMPLICIT:
            self.wire.start_tls(self.plan.verify, self.host)
        self.wire.hear("220", Exit.BANNER)

    def greet(self, exit: Exit = Exit.HELO) -> None:
        protocol = self.plan.protocol
        try:
            reply = self.ask(f"{protocol.greeting} {self.plan.helo}", "250", exit)
        except Refused as refused:
            if protocol is not Protocol.ESMTP or not refused.reason.startswith("5"):
                raise
            reply = self.ask(f"HELO {self.plan.helo}", "250", exit)  # RFC 5321 3.2
        self.offers = reply.keywords

    def starttls(self) -> None:
        if self.plan.tls is not Tls.STARTTLS:
            return
        if "STARTTLS" not in self.offers:
            raise Refused(Exit.TLS, "The server does not offer STARTTLS")
        self.ask("STARTTLS", "220", Exit.TLS)
        self.wire.start_tls(self.plan.verify, self.host)
        self.greet(Exit.HELO_AFTER_TLS)

    def authenticate(self) -> None:
        login = self.plan.login
        if login is None:
            return
        mechanism = self.mechanism(login)
        if mechanism == "PLAIN":
            secret = _base64(f"\0{login.user}\0{login.password}")  # RFC 4616
            self.ask(f"AUTH PLAIN {secret}", "235", Exit.AUTH, shown="AUTH PLAIN (hidden)")
        else:
            self.ask("AUTH LOGIN", "334", Exit.AUTH)
            self.ask(_base64(login.user), "334", Exit.AUTH)
            self.ask(_base64(login.password), "235", Exit.AUTH, shown="(hidden)")

    def mechanism(self, login: Login) -> str:
        wanted = [login.mechanism] if login.mechanism else ["PLAIN", "LOGIN"]
        for mechanism in wanted:
            if mechanism in self.offers.get("AUTH", []):
                return mechanism
        raise Refused(Exit.AUTH, f"The server does not offer AUTH {' or '.join(wanted)}")


class _Transaction:
    """One letter in a session, from MAIL to the dot (RFC 5321 3.3)."""

    def __init__(self, session: Session, letter: Letter, *, to_all: bool = False) -> None:
        self.session = session
        self.ask = session.ask
        self.letter = letter
        self.to_all = to_all
        self.accepted: list[str] = []
        self.refused: dict[str, str] = {}

    def steps(self) -> dict[Stage, Callable[[], None]]:
        return {
            Stage.MAIL: self.mail,
            Stage.RCPT: self.rcpt,
            Stage.DATA: self.data,
            Stage.DOT: self.dot,
        }

    def mail(self) -> None:
        parameters = "".join(f" {parameter}" for parameter in self.mail_parameters())
        self.ask(f"MAIL FROM:<{self.letter.sender}>{parameters}", "250", Exit.MAIL)

    def mail_parameters(self) -> Iterator[str]:
        letter, offers = self.letter, self.session.offers
        if "SIZE" in offers:
            yield f"SIZE={len(letter.content)}"
        if "8BITMIME" in offers and not letter.content.isascii():
            yield "BODY=8BITMIME"
        if "SMTPUTF8" in offers and not "".join([letter.sender, *letter.recipients]).isascii():
            yield "SMTPUTF8"
        if "DSN" in offers and letter.ret:
            yield f"RET={letter.ret}"

    def rcpt(self) -> None:
        wants_notices = "DSN" in self.session.offers and self.letter.notify
        parameter = f" NOTIFY={self.letter.notify}" if wants_notices else ""
        refusal = None
        for recipient in self.letter.recipients:
            try:
                self.ask(f"RCPT TO:<{recipient}>{parameter}", "25", Exit.RCPT)
            except Refused as refused:
                refusal = refused
                self.refused[recipient] = refused.reason
            else:
                self.accepted.append(recipient)
        if refusal and (self.to_all or not self.accepted):
            refusal.recipients = self.refused
            raise refusal

    def data(self) -> None:
        self.ask("DATA", "354", Exit.DATA)

    def dot(self) -> None:
        self.session.wire.say_message(on_the_wire(self.letter.content))
        if self.session.plan.protocol is not Protocol.LMTP:
            self.session.wire.hear("250", Exit.DOT)
            return
        refusals = []
        for recipient in self.accepted:  # RFC 2033 4.2
            try:
                self.session.wire.hear("250", Exit.DOT)
            except Refused as refused:
                self.refused[recipient] = refused.reason
                refusals.append(refused)
        if len(refusals) == len(self.accepted):
            raise refusals[-1]


def _base64(text: str) -> str:
    octets = text.encode("utf-8", "surrogateescape")  # as the environment or a file gave them
    return base64.b64encode(octets).decode("ascii")
