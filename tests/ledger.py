"""Clients as real ones are: they keep a mail until it is answered 250, and write down what was."""

from __future__ import annotations

import contextlib
import smtplib
from collections.abc import Iterable
from typing import NamedTuple

from tests.waiting import wait_until

_TIMEOUT = 20.0  #: seconds; below the deadline, so that a silent server is named


class Letter(NamedTuple):
    """A mail to be sent, by the name that it goes by in the ledger."""

    name: str
    sender: str
    recipients: list[str]
    raw: bytes


class Refused(Exception):
    """A mail was refused for good."""


class TryAgain(Exception):
    """A mail was not taken this time."""


class Ledger:
    """Each 250 that a client heard."""

    def __init__(self) -> None:
        self.accepted: list[str] = []  #: the names of the mails, in order


class Client:
    """One sender over one kept connection, which it opens anew whenever it breaks."""

    def __init__(self, address: str, ledger: Ledger) -> None:
        self._address = address
        self._ledger = ledger
        self._smtp: smtplib.SMTP | None = None

    def send(self, letter: Letter) -> None:
        """Send until it is answered 250; raise Refused when it never will be."""
        while not self._try(letter):
            self.close()
        self._ledger.accepted.append(letter.name)

    def send_all(self, letters: Iterable[Letter]) -> None:
        """Send one after the other."""
        for letter in letters:
            self.send(letter)

    def _try(self, letter: Letter) -> bool:
        try:
            smtp = self._connected()
            _obey(smtp.mail(letter.sender, ["BODY=8BITMIME"]))
            for recipient in letter.recipients:
                _obey(smtp.rcpt(recipient))
            self._send_content(smtp, letter)
        except (smtplib.SMTPServerDisconnected, TryAgain):
            return False
        return True

    def _send_content(self, smtp: smtplib.SMTP, letter: Letter) -> None:
        try:
            _obey(smtp.data(letter.raw))
        except smtplib.SMTPDataError as error:
            _obey((error.smtp_code, error.smtp_error))

    def _connected(self) -> smtplib.SMTP:
        if self._smtp is None:
            self._smtp = wait_until(lambda: _connect(self._address))
        return self._smtp

    def close(self) -> None:
        """Hang up."""
        if self._smtp is not None:
            self._smtp.close()
            self._smtp = None


def _connect(address: str) -> smtplib.SMTP | None:
    """Open a session; None while nobody listens there."""
    host, _, port = address.rpartition(":")
    smtp = smtplib.SMTP(timeout=_TIMEOUT, local_hostname="client.test")
    with contextlib.suppress(ConnectionError, smtplib.SMTPServerDisconnected):
        smtp.connect(host, int(port))
        smtp.ehlo()
        return smtp
    smtp.close()
    return None


def _obey(answer: tuple[int, bytes | str]) -> None:
    code, text = answer
    if code >= 400:
        raise (Refused if code >= 500 else TryAgain)(f"{code} {text!r}")
