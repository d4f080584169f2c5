"""The socket: lines that are said, replies that are heard, and each of them shown."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import DialogueFailed, Exit, Refused, UnsafeCommand, reason_of
from .transcript import CRLF, Transcript, printable

_LONGEST_LINE = 65536


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


def on_the_wire(content: bytes) -> bytes:
    r"""Return a message as DATA carries it: lines end in CRLF, a leading dot is doubled.

    >>> on_the_wire(b"one\n.two")
    b'one\r\n..two\r\n'
    """
    lines = re.sub(rb"(?<!\r)\n", CRLF, content)
    if lines and not lines.endswith(CRLF):
        lines += CRLF
    return re.sub(rb"^\.", b"..", lines, flags=re.MULTILINE)


class Wire:
    """A connected socket that shows every line it carries."""

    def __init__(self, connection: socket.socket, transcript: Transcript) -> None:
        self.connection = connection
        self.transcript = transcript
        self._unread = b""
        self._since = time.perf_counter()

    def say(self, line: bytes, *, shown: bytes | None = None) -> None:
        """Send one command; `shown` stands for it on the terminal.

        Raise UnsafeCommand, and send nothing, if it would be more than one line.
        """
        if re.search(rb"[\r\n\0]", line):
            raise UnsafeCommand(printable(line))
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
            raise DialogueFailed(Exit.LOST, f"Connection lost: {reason_of(error)}") from error
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
            raise DialogueFailed(Exit.TLS, f"No TLS: {reason_of(error)}") from error
        self.connection = encrypted
        self.transcript.encrypted = True
        cipher = encrypted.cipher() or ("",)
        trust = "verified" if verify else "not verified"
        self.transcript.note(f"{encrypted.version()} {cipher[0]}, certificate {trust}")


def _tls_context(verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
