"""The rules for the content of a mail, told so plainly that they can be held against the fast."""

from __future__ import annotations

import re

BARE = re.compile(rb"\0|\r(?!\n)|(?<!\r)\n")  #: what may be in no content: NUL, bare CR, bare LF


def read_content(stream: bytes) -> tuple[bytes, bytes] | None:
    """Read what follows a 354 line by line (RFC 5321 4.5.2).

    Return the content without its doubled dots, and what follows its end; None without an end.
    """
    content, rest = b"", stream
    while True:
        line, line_end, rest = rest.partition(b"\r\n")
        if not line_end:
            return None
        if line == b".":
            return content, rest
        content += line.removeprefix(b".") + line_end


def is_malformed(content: bytes) -> bool:
    """Say whether content must be refused as a whole."""
    return BARE.search(content) is not None
