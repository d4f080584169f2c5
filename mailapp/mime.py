"""Bytes to mail and mail to bytes, on what strangers send. Pure: no database, no network."""

from __future__ import annotations

import re
from email.header import decode_header
from typing import NamedTuple

_HEAD_LIMIT = 65536
_FIELD = re.compile(
    rb"^(subject|from|message-id):[ \t]*((?:[^\n]*\n[ \t]+)*[^\n]*)", re.IGNORECASE | re.MULTILINE
)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


class HeadColumns(NamedTuple):
    """The few header fields that lists and search show, decoded and cut to their columns."""

    subject: str = ""
    author: str = ""
    message_id: str = ""


def head_columns(raw: bytes) -> HeadColumns:
    """Read Subject, From and Message-ID; never raises, whatever the bytes are."""
    end = _end_of_head(raw)
    found: dict[bytes, bytes] = {}
    for name, value in _FIELD.findall(raw[:end]):
        found.setdefault(name.lower(), value)
    return HeadColumns(
        decoded(found.get(b"subject", b""))[:255],
        decoded(found.get(b"from", b""))[:320],
        decoded(found.get(b"message-id", b"")).strip()[:255],
    )


def _end_of_head(raw: bytes) -> int:
    ends = [at for at in (raw.find(b"\r\n\r\n", 0, _HEAD_LIMIT), raw.find(b"\n\n", 0, _HEAD_LIMIT))]
    return min((at for at in ends if at >= 0), default=_HEAD_LIMIT)


def decoded(value: bytes | str) -> str:
    """Return a header's value as one line of text: RFC 2047 words decoded, controls removed."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    text = text[:4096]
    if "=?" in text:
        text = _decode_words(text)
    return " ".join(_UNPRINTABLE.sub(" ", text).split())


def _decode_words(text: str) -> str:
    unfolded = re.sub(r"\r?\n[ \t]+", " ", text)
    try:
        words = decode_header(unfolded)
    except (ValueError, LookupError):
        return text
    return "".join(
        word if isinstance(word, str) else to_text(word, charset) for word, charset in words
    )


def to_text(data: bytes, charset: str | None) -> str:
    """Decode with `charset` where it is known and fits, else UTF-8, else Latin-1; never raises."""
    for name in (charset, "utf-8"):
        try:
            return data.decode(name or "ascii")
        except (LookupError, ValueError):
            continue
    return data.decode("latin-1")
