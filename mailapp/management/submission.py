"""A message as a program hands it in, made one that can be sent (RFC 6409). Pure."""

from __future__ import annotations

import email.utils
import re
from collections.abc import Iterator, Mapping

from mailapp import composing, mime
from mailapp.addresses import whole
from mailapp.errors import BadAddress

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:(.*\r\n(?:[ \t].*\r\n)*)")
_EMPTY_GROUP = re.compile(r":\s*;")

# Newer Pythons are strict, and then take no list with a comma in a comment.
_LENIENT = {"strict": False} if hasattr(email.utils, "supports_strict_parsing") else {}

_ADDRESSED = {"to", "cc", "bcc"}
_RESENT = {"resent-to", "resent-cc", "resent-bcc"}
_BLIND = {"bcc", "resent-bcc"}


class Submission:
    """The fields of a header and a body; what is no field begins the body."""

    def __init__(self, content: bytes) -> None:
        """`content` may have any line ends. A line `From ` on top is a mailbox's, and dropped."""
        lines = re.sub(rb"\A>?From .*\r\n", b"", composing.as_sent(content))
        self._fields: list[tuple[str, bytes, bytes]] = []  # name, value, and all of it
        end = 0
        while found := _FIELD.match(lines, end):
            self._fields.append((found[1].decode().lower(), found[2], found[0]))
            end = found.end()
        self._rest = lines[end:]

    def addressed(self) -> list[str]:
        """Whom the header names: where it was resent, those of that; raise BadAddress."""
        names = {name for name, _, _ in self._fields}
        wanted = names & _RESENT or _ADDRESSED
        values = [value for name, value, _ in self._fields if name in wanted]
        texts = [value.decode("utf-8", "surrogateescape") for value in values]
        return [address for text in texts for address in addresses_in(mime.one_line(text))]

    def without_blind(self) -> None:
        """Drop Bcc, which the others must not see (RFC 5322 3.6.3)."""
        self._fields = [each for each in self._fields if each[0] not in _BLIND]

    def completed(self, defaults: Mapping[str, str]) -> bytes:
        """Return the message, with those of these fields on top that it does not have."""
        names = {name for name, _, _ in self._fields}
        missing = [
            f"{name}: {text}\r\n".encode()
            for name, text in defaults.items()
            if name.lower() not in names
        ]
        written = [raw for _, _, raw in self._fields]
        blank = b"" if self._rest.startswith(b"\r\n") else b"\r\n"
        return b"".join([*missing, *written, blank, self._rest])


def without_dot(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Return the lines before one that is a lone dot."""
    for line in lines:
        if line in {b".\n", b".\r\n", b"."}:
            return
        yield line


def addresses_in(text: str) -> list[str]:
    """Return the addresses of a list as To has one; raise BadAddress if it cannot be read."""
    try:
        boxes = email.utils.getaddresses([text], **_LENIENT)
        found = [address for _, address in boxes if address]
    except RecursionError:  # of comments in comments
        found = []
    if not found and text.strip() and not _EMPTY_GROUP.search(text):
        raise BadAddress(mime.visible(text))
    return found


def envelope_address(text: str, hostname: str) -> str:
    """Return an address as the envelope has it, one without a domain at `hostname`.

    Raise BadAddress.
    """
    try:
        return whole(text if "@" in text else f"{text}@{hostname}")
    except BadAddress as error:
        raise BadAddress(mime.visible(text)) from error
