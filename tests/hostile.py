"""Text of strangers who mean harm, and what their text must not do to a mail that we write."""

from __future__ import annotations

import re
from collections import Counter

from hypothesis import strategies as st

_FRAGMENTS = [
    *(
        "\r\nBcc: victim@client.test",
        "\nBcc: victim@client.test\n\nbody",
        "\rBcc: victim@client.test",
    ),
    *("\x0bBcc: a", "\x0cBcc: b", "\x1cBcc: c", "\x85Bcc: d", "\u2028Bcc: e", "\0", "\x7f"),
    *("=?utf-8?q?=0D=0ABcc:_victim=40client.test?=", "=?utf-8?b?DQpCY2M6IGE=?=", "=?", "?="),
    *(" ", "\t", "\r\n", "\r\n \r\n", '"', "\\", "<", ">", ",", ";", ":", "(", ")", "@", "."),
    *("ü", "用户", "\N{GRINNING FACE}", "\u202e", "a" * 1200, "ü" * 400, "x@client.test"),
]

#: Without halves of surrogate pairs, which nothing can write and nothing that we read has.
texts = st.lists(
    st.sampled_from(_FRAGMENTS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    max_size=6,
).map("".join)


def fields(raw: bytes) -> Counter[str]:
    """Return the names of the header fields, as any program that reads lines would see them.

    Fail if a line is too long (RFC 5322 2.1.1), blank, or ended by anything but CRLF.
    """
    head = raw.partition(b"\r\n\r\n")[0]
    lines = head.split(b"\r\n")
    assert not re.search(rb"[\r\n\0]", b"".join(lines))
    assert all(line.strip() and len(line) <= 998 for line in lines)
    begun = [line for line in lines if not line.startswith((b" ", b"\t"))]
    return Counter(line.partition(b":")[0].decode().lower() for line in begun)
