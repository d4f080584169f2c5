"""What `sendmail` does, as mutt, cron and the pipes of Postfix know it.

Loads no apps and asks no database, so that nobody who calls it from a shell has to wait.
"""

from __future__ import annotations

import getopt
import getpass
import os
import pwd
import re
import select
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from email.utils import formataddr, formatdate
from typing import BinaryIO

from django.core.exceptions import ImproperlyConfigured

from mailapp import charsets, composing, mime
from mailapp.conf import MailSettings, mail_settings
from mailapp.dialogue import DialogueFailed, Exit, Letter, Plan, Refused, Transcript, session
from mailapp.endpoints import Endpoint
from mailapp.errors import BadAddress

from .submission import Submission, addresses_in, envelope_address, without_dot

# Those of other sendmails. What concerns their queues, files and logs alone changes nothing here.
_SHORT = "A:B:b:C:cd:e:F:f:Gh:iL:mN:nO:o:p:qR:r:tUV:vX:"
_LONG = ["host=", "port=", "settings=", "pythonpath="]

_SMTP_PORT = 25
_AT_ONCE = 65536  # octets
_TIMEOUT = 300.0  # seconds for a reply, as RFC 5321 4.5.3.2 has it for most


class NotSent(Exception):
    """The message was sent to nobody."""

    def __init__(self, code: int, *reasons: str) -> None:
        """`code` is one of sysexits.h, each of the reasons a line."""
        super().__init__(*reasons)
        self.code = code
        self.reasons = reasons


@dataclass
class Order:
    """What the arguments ask for."""

    recipients: list[str] = field(default_factory=list)
    read_header: bool = False  #: who is in To, Cc and Bcc is a recipient, too
    sender: str | None = None
    full_name: str = ""
    dot_ends: bool = True
    quiet: bool = False
    verbose: bool = False
    mode: str = "m"  #: m sends a message, s speaks SMTP, q has nothing to do
    notify: str = ""
    ret: str = ""
    host: str = ""
    port: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Send what standard input holds; return an exit code of sysexits.h."""
    order = Order()
    try:
        read_order(order, sys.argv[1:] if arguments is None else arguments)
        if order.mode == "s":
            speak(_server(order), _standard_input(), sys.stdout.buffer)
        elif order.mode == "m":
            server = _server(order)
            send(order, server, write_letter(order, _standard_input()))
    except NotSent as failure:
        for reason in failure.reasons if not order.quiet else []:
            _complain(reason)
        return failure.code
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        _complain(f"{type(error).__name__}: {error}")
        return os.EX_SOFTWARE
    return os.EX_OK


def _standard_input() -> BinaryIO:
    if sys.stdin is None:  # as a program starts us that has closed its own
        raise NotSent(os.EX_IOERR, "there is no standard input to read the message from")
    return sys.stdin.buffer


def _complain(reason: str) -> None:
    sys.stderr.write(f"sendmail: {mime.one_line(reason)}\n")


# The arguments.


def read_order(order: Order, arguments: Sequence[str]) -> None:
    """Read the arguments; raise NotSent for wrong ones."""
    try:
        options, recipients = getopt.getopt(list(_plain(arguments)), _SHORT, _LONG)
    except getopt.GetoptError as error:
        raise NotSent(os.EX_USAGE, error.msg) from error
    for name, value in options:
        _read_option(order, name, value)
    order.recipients += recipients
    if order.mode == "q" and (recipients or order.read_header):
        order.mode = "m"  # or a message would be lost
    if order.mode == "m" and not recipients and not order.read_header:
        raise NotSent(os.EX_USAGE, "to whom? Name recipients, or have -t read them in the header")


def _plain(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the arguments, without what may follow -q at once, since getopt has no such thing."""
    flags = True
    for word in arguments:
        flags = flags and word != "--"
        yield "-q" if flags and re.fullmatch(r"-q(\d\w*|[IRS].*)", word) else word


def _read_option(order: Order, name: str, value: str) -> None:
    match name, value:
        case "-t", _:
            order.read_header = True
        case (("-f" | "-r"), _):
            order.sender = value
        case "-F", _:
            order.full_name = value
        case ("-i", _) | ("-o", "i"):
            order.dot_ends = False
        case ("-e", "q") | ("-o", "eq"):
            order.quiet = True
        case "-v", _:
            order.verbose = True
        case "-b", _:
            order.mode = _mode(value)
        case "-q", _:
            order.mode = "q"  # the relay does by itself what this asks for
        case "-N", _:
            order.notify = _notify(value)
        case "-R", _:
            order.ret = _ret(value)
        case "--host", _:
            order.host = value
        case "--port", _:
            order.port = value
        case "--settings", _:
            os.environ.setdefault("DJANGO_SETTINGS_MODULE", value)
        case "--pythonpath", _:
            sys.path.insert(0, value)


def _mode(value: str) -> str:
    modes = {"m": "m", "s": "s", "i": "q"}
    if value not in modes:
        raise NotSent(os.EX_USAGE, f"-b{value} is not known here")
    return modes[value]


def _notify(value: str) -> str:
    words = value.upper().split(",")
    if words == ["NEVER"] or set(words) <= {"SUCCESS", "FAILURE", "DELAY"}:
        return ",".join(words)
    raise NotSent(os.EX_USAGE, f"-N {value} is not never or some of success,failure,delay")


def _ret(value: str) -> str:
    if value.lower() not in {"full", "hdrs"}:
        raise NotSent(os.EX_USAGE, f"-R {value} is not full or hdrs")
    return value.upper()


def _server(order: Order) -> Endpoint:
    if order.port and not (order.port.isdecimal() and 0 < int(order.port) <= 65535):
        raise NotSent(os.EX_USAGE, f"--port {order.port} is not a port")
    if order.host:
        return Endpoint(order.host, int(order.port or _SMTP_PORT))
    receiver = Endpoint.parse(_mail_settings(order).RECEIVER)
    return receiver._replace(port=int(order.port or receiver.port))


def _mail_settings(order: Order) -> MailSettings:
    """Return our settings; who names a host may do without."""
    try:
        return mail_settings()
    except (ImproperlyConfigured, ImportError) as error:
        if order.host:
            return MailSettings(HOSTS=[socket.gethostname()])
        raise NotSent(os.EX_CONFIG, str(error)) from error


# The message and its envelope.


def write_letter(order: Order, source: BinaryIO) -> Letter:
    """Read the message and find its envelope; raise NotSent where that cannot be."""
    submission = Submission(_read(source, dot_ends=order.dot_ends))
    hostname = _mail_settings(order).hostname
    login = f"{_login()}@{hostname}"
    try:
        sender = login if order.sender is None else _sender(order.sender, hostname)
        recipients = _recipients(order, submission, hostname)
    except BadAddress as error:
        raise NotSent(os.EX_DATAERR, str(error)) from error
    if order.read_header:
        submission.without_blind()
    defaults = {
        "From": _author(_full_name(order), sender or login),
        "Date": formatdate(localtime=True),
        "Message-ID": composing.new_message_id(hostname),
    }
    return Letter(
        sender=sender,
        recipients=recipients,
        content=submission.completed(defaults),
        notify=order.notify,
        ret=order.ret,
    )


def _read(source: BinaryIO, *, dot_ends: bool) -> bytes:
    try:
        return b"".join(without_dot(source)) if dot_ends else source.read()
    except OSError as error:
        raise NotSent(os.EX_IOERR, f"the message cannot be read: {error.strerror}") from error


def _sender(text: str, hostname: str) -> str:
    if text in {"", "<>"}:
        return ""
    addresses = _named(text)
    if len(addresses) > 1:
        raise BadAddress(mime.visible(text))
    return envelope_address(addresses[0], hostname)


def _recipients(order: Order, submission: Submission, hostname: str) -> list[str]:
    """Return each recipient once; raise NotSent if there are none, BadAddress for a bad one."""
    named = [address for word in order.recipients for address in _named(word)]
    found = submission.addressed() if order.read_header else []
    if not named and not found:
        raise NotSent(os.EX_DATAERR, "neither the header nor an argument names a recipient")
    return list(dict.fromkeys(envelope_address(each, hostname) for each in [*named, *found]))


def _named(word: str) -> list[str]:
    """Return the addresses of an argument: nearly always one, but a list as To has it will do."""
    return addresses_in(word) if word.isprintable() and re.search("[<,]", word) else [word]


def _author(name: str, address: str) -> str:
    """Return a mailbox, its name in words of RFC 2047; UTF-8 goes with no other encoding."""
    return formataddr((name, address)) if address.isascii() else address


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user needs no name
        return str(os.getuid())


def _full_name(order: Order) -> str:
    if order.full_name:
        return mime.one_line(charsets.to_text(os.fsencode(order.full_name), None))
    try:
        return pwd.getpwuid(os.getuid()).pw_gecos.partition(",")[0]
    except KeyError:
        return ""


# The way to the server.


def send(order: Order, server: Endpoint, letter: Letter) -> None:
    """Send to all recipients or, raising NotSent, to none."""
    plan = Plan(server=server, helo=_mail_settings(order).hostname, timeout=_TIMEOUT)
    transcript = Transcript(print if order.verbose else str)
    try:
        with session(plan, transcript) as opened:
            opened.send(letter, to_all=True)
    except DialogueFailed as failure:
        reasons = [f"{who}: {reply}" for who, reply in failure.recipients.items()]
        if len(letter.recipients) > len(reasons) > 0:
            reasons.append("nothing was sent to the other recipients")
        raise NotSent(_code(failure), *(reasons or [failure.reason])) from failure


# By the enhanced status (RFC 3463 3) of a refusal for good.
_BY_STATUS = {
    "1.2": os.EX_NOHOST,
    "1.7": os.EX_DATAERR,
    "1.8": os.EX_DATAERR,
    "3.4": os.EX_DATAERR,
    "6": os.EX_DATAERR,
    "7": os.EX_NOPERM,
}


def _code(failure: DialogueFailed) -> int:
    """Return the exit code by which whoever called us gives up, or keeps the mail and tries again.

    In doubt that is to try again.
    """
    cause = failure.__cause__
    if isinstance(cause, socket.gaierror | UnicodeError):
        busy = getattr(cause, "errno", 0) == socket.EAI_AGAIN
        return os.EX_TEMPFAIL if busy else os.EX_NOHOST
    replies = failure.recipients.values() or [failure.reason]
    refusals = [reply for reply in replies if reply.startswith("5")]
    if not refusals or not isinstance(failure, Refused):
        return os.EX_TEMPFAIL
    otherwise = os.EX_NOUSER if failure.exit is Exit.RCPT else os.EX_UNAVAILABLE
    status = re.match(r"5\d\d 5\.((\d+)\.\d+)", refusals[0])
    if status is None:
        return otherwise
    return _BY_STATUS.get(status[1]) or _BY_STATUS.get(status[2]) or otherwise


def speak(server: Endpoint, source: BinaryIO, sink: BinaryIO) -> None:
    """Let the caller speak SMTP with the server; raise NotSent if there is none."""
    try:
        with socket.create_connection(server, _TIMEOUT) as connection:
            _carry(connection, source, sink)
    except OSError as error:
        raise NotSent(os.EX_TEMPFAIL, f"no session with {server}: {error.strerror}") from error


def _carry(connection: socket.socket, source: BinaryIO, sink: BinaryIO) -> None:
    """Carry what either side says to the other until the server ends the session."""
    speakers: list[socket.socket | BinaryIO] = [connection, source]
    goes_on = _hear(connection, sink)  # the greeting, before which nothing may be said
    while goes_on:
        ready, _, _ = select.select(speakers, [], [])
        if source in ready:
            said = os.read(source.fileno(), _AT_ONCE)
            if said:
                connection.sendall(said)
            else:
                connection.shutdown(socket.SHUT_WR)
                speakers.remove(source)
        if connection in ready:
            goes_on = _hear(connection, sink)


def _hear(connection: socket.socket, sink: BinaryIO) -> bool:
    heard = connection.recv(_AT_ONCE)
    sink.write(heard)
    sink.flush()
    return bool(heard)
