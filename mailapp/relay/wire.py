"""What goes over the wire to the smart host, and what comes back. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Self

from mailapp import composing, mime

CLOSING = 421  # RFC 5321 3.8

_ADDRESS = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^\s<>"\\])*')
_OTHER_LACK = re.compile(r"4\.(?!5\.3)\d")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Reply(NamedTuple):
    """A reply of RFC 5321 4.2 on one line."""

    code: int
    text: str

    @classmethod
    @lru_cache(maxsize=256)  # most replies of a smart host are the same few
    def of(cls, code: int, text: bytes) -> Self:
        """Take what smtplib read; the lines of a reply become one."""
        return cls(code, mime.decoded(text)[:1000])

    def __str__(self) -> str:
        return f"{self.code} {self.text}".rstrip()

    @property
    def accepted(self) -> bool:
        return 200 <= self.code <= 299

    @property
    def permanent(self) -> bool:
        return 500 <= self.code <= 599

    @property
    def go_ahead(self) -> bool:
        return 300 <= self.code <= 399

    @property
    def too_many(self) -> bool:
        """True when it is not the recipient but the number of them (RFC 5321 4.5.3.1.10)."""
        return self.code == 452 and not _OTHER_LACK.match(self.text)


MALFORMED_SENDER = Reply(553, "5.1.7 Malformed sender address; nothing was sent")
MALFORMED_RECIPIENT = Reply(553, "5.1.3 Malformed recipient address; nothing was sent")
BROKEN_OFF = Reply(451, "4.4.2 The smart host broke off before it answered for this recipient")
SUPPRESSED = Reply(550, "5.7.1 Nothing is sent to this address, see the suppressions")
NO_SMTPUTF8 = Reply(553, "5.6.7 The smart host takes no addresses beyond ASCII")
NO_8BITMIME = Reply(554, "5.6.3 The smart host takes no 8-bit mail")


def data(raw: bytes) -> bytes:
    r"""Return a mail as it follows DATA: CRLF line ends, leading dots doubled, the final dot.

    >>> data(b"one\n.two\rthree")
    b'one\r\n..two\r\nthree\r\n.\r\n'
    """
    content = composing.as_sent(raw).replace(b"\r\n.", b"\r\n..")
    return (b"." if content.startswith(b".") else b"") + content + b".\r\n"


def is_sendable(address: str) -> bool:
    """Say whether an address can stand in a command without becoming more than an address."""
    return not _CONTROL.search(address) and _ADDRESS.fullmatch(address) is not None


def malformed(sender: str, recipients: Sequence[str]) -> dict[str, Reply]:
    """Return a reply for each recipient that nothing may be sent to, since an address is none."""
    if not is_sendable(sender):
        return dict.fromkeys(recipients, MALFORMED_SENDER)
    return {each: MALFORMED_RECIPIENT for each in recipients if not is_sendable(each)}
