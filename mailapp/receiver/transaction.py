"""One mail transaction: the envelope, from MAIL to the final dot, and the parameters of MAIL."""

from __future__ import annotations

import re
from typing import NamedTuple

from mailapp.addresses import fold

from . import replies
from .replies import Refused


class Transaction:
    """Sender and recipients that were accepted."""

    __slots__ = ("_by_fold", "accepted", "sender", "surplus", "utf8")

    def __init__(self, sender: str, utf8: bool) -> None:
        self.sender = sender
        self.utf8 = utf8
        self.accepted = 0  #: RCPT commands, which may name one recipient several times
        self.surplus = 0  #: RCPT commands that came when there were as many as may be
        self._by_fold: dict[str, str] = {}

    def add(self, recipient: str) -> None:
        """Take a recipient; the same one again changes nothing."""
        self.accepted += 1
        self._by_fold.setdefault(fold(recipient), recipient)

    @property
    def recipients(self) -> list[str]:
        """Each recipient once, in the order in which they came."""
        return list(self._by_fold.values())


class MailParameters(NamedTuple):
    """What stood behind the path of MAIL."""

    size: int = 0
    utf8: bool = False


_NONE = MailParameters()


_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})+")  # RFC 3461 4


def read_mail_parameters(text: str, *, extended: bool, with_auth: bool = False) -> MailParameters:
    """Read SIZE, BODY and SMTPUTF8 (RFC 1870, 6152, 6531); raise Refused.

    `with_auth` takes AUTH, too, and believes nothing of it (RFC 4954 5).

    >>> read_mail_parameters(" SIZE=1000 body=8BITMIME SMTPUTF8", extended=True)
    MailParameters(size=1000, utf8=True)
    """
    if not text:
        return _NONE
    if not text.startswith(" "):
        raise Refused(replies.BAD_ARGUMENTS)
    if not text.isascii():  # letters such as \u017f are ASCII in capitals
        raise Refused(replies.UNKNOWN_PARAMETER)
    given: dict[str, str | None] = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if name.upper() in given:
            raise Refused(replies.BAD_ARGUMENTS)
        given[name.upper()] = value if equals else None
    size = given.pop("SIZE", "0") or ""
    body = given.pop("BODY", "7BIT") or ""
    utf8 = "SMTPUTF8" in given
    if given.pop("SMTPUTF8", None) is not None:
        raise Refused(replies.BAD_ARGUMENTS)
    author = given.pop("AUTH", "<>") or "" if with_auth else "<>"
    if given or not extended:
        raise Refused(replies.UNKNOWN_PARAMETER)
    if not _is_size(size) or body.upper() not in {"7BIT", "8BITMIME"}:
        raise Refused(replies.BAD_ARGUMENTS)
    if not _XTEXT.fullmatch(author):
        raise Refused(replies.BAD_ARGUMENTS)
    return MailParameters(int(size), utf8)


def _is_size(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 20  # RFC 1870 3
