"""smtplib's clients, but for replies: each has to be there in time, and to have an end."""

from __future__ import annotations

import base64
import select
import smtplib
import socket
import ssl
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from mailapp import mime
from mailapp.endpoints import SmartHost, Tls
from mailapp.errors import NoUpstream

from .wire import Reply

_LONGEST_REPLY = 65536  # octets, of all its lines
_NEARLY_ALL = 0.99  # of the time for a reply; to set another is a system call, and one to undo it


def greeted(host: SmartHost, *, hostname: str, timeout: float, ca_file: str = "") -> smtplib.SMTP:
    """Connect, greet with `hostname`, encrypt and log in, as `host` says.

    Raise NoUpstream when one of them fails.
    """
    smtp = None
    try:
        smtp = _connected(host, hostname, timeout, ca_file)
        _introduce(smtp, host, ca_file)
    except (OSError, ValueError) as error:  # smtplib and ssl take some nonsense for a ValueError
        if smtp is not None:
            smtp.close()
        raise NoUpstream(f"{host}: {_without_secrets(_why(error), host)}") from None
    return smtp


def _why(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        said = error.smtp_error
        return str(Reply.of(error.smtp_code, said.encode() if isinstance(said, str) else said))
    return mime.one_line(str(error))


def _connected(host: SmartHost, hostname: str, timeout: float, ca_file: str) -> smtplib.SMTP:
    place = (str(host.place), 0) if isinstance(host.place, Path) else host.place
    if host.scheme == "lmtp":
        return _Lmtp(*place, hostname, timeout=timeout)
    if host.scheme == "smtps":
        return _Smtps(*place, hostname, timeout=timeout, context=_tls(host, ca_file))
    return _Smtp(*place, hostname, timeout=timeout)


def _introduce(smtp: smtplib.SMTP, host: SmartHost, ca_file: str) -> None:
    smtp.ehlo_or_helo_if_needed()
    if host.scheme != "smtps" and host.tls != Tls.NONE:
        smtp.starttls(context=_tls(host, ca_file))
        smtp.ehlo_or_helo_if_needed()
    if host.user:
        smtp.login(host.user, host.password)


def _tls(host: SmartHost, ca_file: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file or None)
    if host.tls == Tls.UNVERIFIED:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _without_secrets(text: str, host: SmartHost) -> str:
    """Take out what a server has repeated of AUTH."""
    if not host.password:
        return text
    login = f"\0{host.user}\0{host.password}"
    secrets = [base64.b64encode(each.encode()).decode() for each in (login, host.password)]
    for secret in (*secrets, host.password):
        text = text.replace(secret, "(hidden)")
    return text


if TYPE_CHECKING:
    _Client = smtplib.SMTP
else:
    _Client = object


class _InTime(_Client):
    """Gives a whole reply no more time than the socket gives each read."""

    def getreply(self) -> tuple[int, bytes]:
        """Return code and text; raise SMTPServerDisconnected, and close, if it is not one."""
        assert self.sock is not None
        if self.file is None:  # at first, and after STARTTLS, when what was unread is nothing
            self.file = Lines(self.sock)
        seconds = self.sock.gettimeout()
        assert seconds is not None
        texts, size, end = [], 0, monotonic() + seconds
        try:
            while True:
                line = self.file.read(end, _LONGEST_REPLY - size)
                size += len(line)
                texts.append(line[4:].strip(b" \t\r\n"))
                if not line[:3].isdigit():
                    return -1, b"\n".join(texts)
                if line[3:4] != b"-":
                    return int(line[:3]), b"\n".join(texts)
        except OSError as error:
            self.close()
            raise smtplib.SMTPServerDisconnected(str(error)) from error


class Lines:
    """The lines that come from a socket. In the place of smtplib's file."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._unread = b""
        self._arrivals = select.poll()
        self._arrivals.register(sock, select.POLLIN)

    def read(self, end: float, most: int) -> bytes:
        """Return a line of at most so many octets, there by `end` (monotonic); raise OSError."""
        while b"\n" not in self._unread[:most]:
            if len(self._unread) >= most:
                raise OSError("the reply has no end")
            self._unread += self._receive(end)
        line, line_end, self._unread = self._unread.partition(b"\n")
        return line + line_end

    def _receive(self, end: float) -> bytes:
        left = end - monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        usual = self._sock.gettimeout()
        assert usual is not None
        octets = self._received(left) if left < usual * _NEARLY_ALL else self._sock.recv(8192)
        if not octets:
            raise OSError("the connection was closed")
        return octets

    def _received(self, seconds: float) -> bytes:
        usual = self._sock.gettimeout()
        self._sock.settimeout(seconds)
        try:
            return self._sock.recv(8192)
        finally:
            self._sock.settimeout(usual)

    def is_fresh(self) -> bool:
        """Say whether all that came was read, and more can come."""
        if self._unread:
            return False
        if not self._arrivals.poll(0) and not self._has_deciphered():
            return True
        try:
            self._unread = self._received(0)
        except (BlockingIOError, ssl.SSLWantReadError):  # what came was for TLS itself
            return True
        except OSError:
            return False
        return False

    def _has_deciphered(self) -> bool:
        return isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0

    def close(self) -> None:
        """Do nothing; the socket is closed by who opened it."""


class _Smtp(_InTime, smtplib.SMTP):
    pass


class _Smtps(_InTime, smtplib.SMTP_SSL):
    pass


class _Lmtp(_InTime, smtplib.LMTP):
    pass
