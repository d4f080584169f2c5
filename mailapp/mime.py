"""Bytes to mail and mail to bytes, on what strangers send. Pure: no database, no network."""

from __future__ import annotations

import email.message
import email.parser
import email.utils
import io
import re
from collections.abc import Iterator
from email import policy
from email.generator import BytesGenerator
from email.header import decode_header
from typing import Any, NamedTuple

import quotequail

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
    found: dict[bytes, bytes] = {}
    for name, value in _FIELD.findall(head(raw)):
        found.setdefault(name.lower(), value)
    return HeadColumns(
        decoded(found.get(b"subject", b""))[:255],
        decoded(found.get(b"from", b""))[:320],
        decoded(found.get(b"message-id", b"")).strip()[:255],
    )


def head(raw: bytes) -> bytes:
    """Return the header section of a mail, of which the first 64 kB."""
    return raw[: _end_of_head(raw)]


def _end_of_head(raw: bytes) -> int:
    ends = [at for at in (raw.find(b"\r\n\r\n", 0, _HEAD_LIMIT), raw.find(b"\n\n", 0, _HEAD_LIMIT))]
    return min((at for at in ends if at >= 0), default=_HEAD_LIMIT)


def decoded(value: bytes | str) -> str:
    """Return a header's value as one line of text: RFC 2047 words decoded, controls removed."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    text = text[:4096]
    if "=?" in text:
        text = _decode_words(text)
    return one_line(text)


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


# A mail as a whole. compat32 takes what strangers send; policy.default raises on some of it
# and can be made to use gigabytes.


def parse(raw: bytes) -> email.message.Message:
    """Parse a mail; never raises. What is nested too deep becomes one text part."""
    try:
        return email.parser.BytesParser(policy=policy.compat32).parsebytes(raw)
    except (RecursionError, ValueError):
        return email.parser.BytesHeaderParser(policy=policy.compat32).parsebytes(raw)


def headers(message: email.message.Message) -> list[tuple[str, str]]:
    """Return all header fields in order, as text on one line each."""
    return [(name, decoded(_as_bytes(value))) for name, value in message.raw_items()]


def header(message: email.message.Message, name: str) -> str:
    """Return the first field of that name as text on one line, or ""."""
    wanted = name.lower()
    for field, value in message.raw_items():
        if field.lower() == wanted:
            return decoded(_as_bytes(value))
    return ""


def _as_bytes(value: Any) -> bytes:
    return str(value).encode("utf-8", "surrogateescape")


class Attachment(NamedTuple):
    """A part that is not the text: its name as the sender gave it, and its bytes."""

    filename: str
    content_type: str
    content: bytes


def text_of(message: email.message.Message, subtype: str = "plain") -> str:
    """Return the first inline text part of that subtype, or ""; never raises."""
    for part in _parts(message):
        if part.get_content_type() == f"text/{subtype}" and not _is_attached(part):
            return _text(part)
    return ""


def attachments(message: email.message.Message) -> list[Attachment]:
    """Return every part that carries a file name or is not inline text; never raises."""
    return [
        Attachment(_filename(part), part.get_content_type(), content(part))
        for part in _parts(message)
        if _is_attached(part)
    ]


def _parts(message: email.message.Message) -> Iterator[email.message.Message]:
    waiting = [message]
    while waiting:
        part = waiting.pop(0)
        if part.get_content_type() == "message/rfc822" and part is not message:
            yield part
        elif part.is_multipart():
            waiting[:0] = part.get_payload()  # type: ignore[arg-type]
        else:
            yield part


def _is_attached(part: email.message.Message) -> bool:
    return (
        part.get_content_maintype() != "text"
        or str(part.get("Content-Disposition", "")).lower().startswith("attachment")
        or bool(_filename(part))
    )


def _filename(part: email.message.Message) -> str:
    try:
        return decoded(part.get_filename() or "")
    except (LookupError, ValueError, TypeError):
        return ""


def content(part: email.message.Message) -> bytes:
    """Return what a part holds, its transfer encoding undone; never raises."""
    if part.is_multipart():
        return b"\r\n".join(_flat(inner) for inner in part.get_payload())  # type: ignore[arg-type]
    try:
        content = part.get_payload(decode=True)
    except (LookupError, ValueError, TypeError):
        content = None
    return content if isinstance(content, bytes) else _as_bytes(part.get_payload())


def _flat(message: email.message.Message) -> bytes:
    try:
        return message.as_bytes()
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError):
        return _as_bytes(message.get_payload())


def _text(part: email.message.Message) -> str:
    try:
        charset = part.get_content_charset()
    except (LookupError, ValueError, TypeError):
        charset = None
    return to_text(content(part), charset).replace("\r\n", "\n")


def reply_text(text: str) -> str:
    """Return what the author wrote anew: the text above a quotation, without a signature."""
    parts = quotequail.unwrap(text)
    new = parts.get("text_top", text) if parts else text
    return re.split(r"^-- \n", new, maxsplit=1, flags=re.MULTILINE)[0].strip()


def is_automatic(message: email.message.Message) -> bool:
    """Say whether a machine sent this, so that no machine should answer (RFC 3834 section 2)."""
    submitted = header(message, "Auto-Submitted").partition(";")[0].strip().lower()
    precedence = header(message, "Precedence").lower()
    return (
        submitted not in {"", "no"}
        or precedence in {"bulk", "junk", "list"}
        or any(name.lower() in {"list-id", "list-post"} for name in message)
        or is_report(message)
    )


def is_report(message: email.message.Message) -> bool:
    """Say whether this is a delivery report by its form (RFC 6522)."""
    return message.get_content_type() == "multipart/report"


# Mail that we compose.


def to_bytes(message: email.message.Message) -> bytes:
    """Write a composed mail with CRLF line ends."""
    out = io.BytesIO()
    BytesGenerator(out, mangle_from_=False).flatten(message, linesep="\r\n")
    return out.getvalue()


def one_line(value: str) -> str:
    """Make a header value of any text: no line ends, no controls, so that no field is added."""
    return " ".join(_UNPRINTABLE.sub(" ", value).split())


# Controls, bidirectional overrides, invisible and tag characters, halves of surrogate pairs.
# The two joiners stay: Persian and emoji need them.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """Write out the characters that hide, reorder or break text, as in `[U+202E]`.

    >>> visible("exe.\u202egpj")
    'exe.[U+202E]gpj'
    """
    return _HIDDEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)


def with_fields(fields: list[tuple[str, str]], raw: bytes) -> bytes:
    """Put header fields above the bytes of a mail, which stay as they are (DKIM still holds)."""
    return b"".join(f"{name}: {one_line(value)}\r\n".encode() for name, value in fields) + raw


def new_message_id(hostname: str) -> str:
    """A Message-ID that nobody else has (RFC 5322 3.6.4)."""
    return email.utils.make_msgid(domain=hostname)
