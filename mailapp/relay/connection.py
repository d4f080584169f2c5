"""One connection to a smart host: transactions by RFC 5321 or LMTP, pipelined by RFC 2920."""

from __future__ import annotations

import contextlib
import smtplib
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from mailapp.endpoints import SmartHost
from mailapp.errors import MailError

from . import wire
from .client import Lines, greeted
from .wire import Reply

_BLOCK = 1024 * 1024  # octets that are sent under one timeout
_WHOLE_MAIL = 10  # times the timeout for the reply to a mail (RFC 5321 4.5.3.2.6)
_FAREWELL = 5.0  # seconds for the reply to QUIT


class ConnectionBroken(MailError):
    """The smart host broke off, fell silent or answered nonsense."""

    reply = "451 4.4.2 Connection with the relay broken"

    def __init__(self, detail: str, *, content_sent: bool) -> None:
        super().__init__(detail)
        self.content_sent = content_sent  #: the mail may have arrived all the same


class Connection:
    """A connection that has been greeted. After ConnectionBroken it is good for nothing."""

    def __init__(self, smtp: smtplib.SMTP, host: SmartHost, timeout: float) -> None:
        self._smtp = smtp
        self._host = host
        self._timeout = timeout
        self._content_sent = False

    @classmethod
    def open(cls, host: SmartHost, *, hostname: str, timeout: float, ca_file: str = "") -> Self:
        """Connect and greet with `hostname`; raise NoUpstream when the host does not let us in.

        For TLS, trust the authorities in `ca_file`, or without one those of this system.
        """
        smtp = greeted(host, hostname=hostname, timeout=timeout, ca_file=ca_file)
        if not isinstance(host.place, Path):
            assert smtp.sock is not None
            smtp.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(smtp, host, timeout)

    def transact(self, sender: str, recipients: Sequence[str], raw: bytes) -> dict[str, Reply]:
        """Send one mail in one transaction and return the reply for each recipient.

        Raise ConnectionBroken when the connection does not last until then.
        """
        self._content_sent = False
        replies = self._refusals(sender, recipients, raw)
        asked = [recipient for recipient in recipients if recipient not in replies]
        if asked:
            replies |= self._ask_to_take(sender, asked, raw)
        return replies

    def _refusals(self, sender: str, recipients: Sequence[str], raw: bytes) -> dict[str, Reply]:
        """Find what cannot be sent, before any of it reaches the socket."""
        refusals = wire.malformed(sender, recipients)
        if not sender.isascii() and not self._offers("smtputf8"):
            return dict.fromkeys(recipients, wire.NO_SMTPUTF8) | refusals
        if not raw.isascii() and not self._offers("8bitmime"):
            return dict.fromkeys(recipients, wire.NO_8BITMIME) | refusals
        for recipient in recipients:
            if not recipient.isascii() and not self._offers("smtputf8"):
                refusals.setdefault(recipient, wire.NO_SMTPUTF8)
        return refusals

    def _offers(self, extension: str) -> bool:
        return self._smtp.has_extn(extension)

    def _ask_to_take(self, sender: str, recipients: Sequence[str], raw: bytes) -> dict[str, Reply]:
        mail, *answers, start = self._ask(
            self._mail_command(sender, recipients, raw),
            *(f"RCPT TO:<{recipient}>" for recipient in recipients),
            "DATA",
        )
        if start.accepted:
            raise self._broken(f"DATA was answered with {start}")
        if not mail.accepted:
            answers = [mail] * len(recipients)
        replies = dict(zip(recipients, answers, strict=True))
        taken = [recipient for recipient, reply in replies.items() if reply.accepted]
        if not start.go_ahead:
            self._reset()
            return replies | dict.fromkeys(taken, start)
        if not taken:
            self.abandon()  # it waits for a mail to nobody
            return replies
        return replies | self._send_content(raw, taken)

    def _mail_command(self, sender: str, recipients: Sequence[str], raw: bytes) -> str:
        command = f"MAIL FROM:<{sender}>"
        if self._offers("size"):
            command += f" SIZE={len(raw)}"
        if not raw.isascii():
            command += " BODY=8BITMIME"
        if not all(address.isascii() for address in (sender, *recipients)):
            command += " SMTPUTF8"
        return command

    def _reset(self) -> None:
        with contextlib.suppress(ConnectionBroken):  # what was answered stays true
            self._ask("RSET")

    def _send_content(self, raw: bytes, recipients: Sequence[str]) -> dict[str, Reply]:
        if not self._lines.is_fresh():  # a reply that came too early must not count for this mail
            raise self._broken("it spoke out of turn")
        self._content_sent = True
        self._write(wire.data(raw))
        self._sock.settimeout(self._timeout * _WHOLE_MAIL)
        if self._host.scheme == "lmtp":  # a reply for each: RFC 2033 4.2
            replies = self._hear_for_each(recipients)
        else:
            replies = dict.fromkeys(recipients, self._hear())
        if self._smtp.sock is not None:
            self._sock.settimeout(self._timeout)
        return replies

    def _hear_for_each(self, recipients: Sequence[str]) -> dict[str, Reply]:
        """What was answered before it broke off stays true: the others are tried again."""
        replies: dict[str, Reply] = {}
        try:
            for recipient in recipients:
                replies[recipient] = self._hear()
        except ConnectionBroken:
            if not replies:
                raise
        return dict.fromkeys(recipients, wire.BROKEN_OFF) | replies

    def _ask(self, *commands: str) -> list[Reply]:
        lines = [command.encode() + b"\r\n" for command in commands]
        replies = []
        for group in [lines] if self._offers("pipelining") else [[line] for line in lines]:
            self._write(b"".join(group))
            replies += [self._hear() for _ in group]
        return replies

    def _write(self, octets: bytes) -> None:
        view = memoryview(octets)
        try:
            for start in range(0, len(octets), _BLOCK):
                self._smtp.send(view[start : start + _BLOCK])
        except (OSError, smtplib.SMTPException) as error:
            raise self._broken(str(error)) from error

    def _hear(self) -> Reply:
        try:
            code, text = self._smtp.getreply()
        except (OSError, smtplib.SMTPException) as error:
            raise self._broken(str(error)) from error
        if code == wire.CLOSING or not 200 <= code <= 599:
            raise self._broken(f"it answered {Reply.of(code, text)}")
        return Reply.of(code, text)

    def _broken(self, detail: str) -> ConnectionBroken:
        self.abandon()
        return ConnectionBroken(f"{self._host}: {detail}", content_sent=self._content_sent)

    @property
    def _sock(self) -> socket.socket:
        assert self._smtp.sock is not None
        return self._smtp.sock

    def is_fit(self) -> bool:
        """Say whether another transaction can begin: it is open and all that was said is heard."""
        return self._smtp.sock is not None and self._lines.is_fresh()

    @property
    def _lines(self) -> Lines:
        lines = self._smtp.file
        assert isinstance(lines, Lines)
        return lines

    def close(self) -> None:
        """Take leave, as RFC 5321 4.1.1.10 wants it."""
        if self._smtp.sock is not None:
            self._sock.settimeout(min(self._timeout, _FAREWELL))
            with contextlib.suppress(ConnectionBroken):
                self._ask("QUIT")
            self.abandon()

    def abandon(self) -> None:
        """Drop the connection without a word."""
        self._smtp.close()
