"""Bytes to mail, on what strangers send. Pure: no database, no network."""

from __future__ import annotations

import contextlib
import copy
import email.message
import email.parser
import re
from collections.abc import Iterator
from email.policy import Compat32
from typing import Any, NamedTuple

import quotequail

from mailapp import hypertext
from mailapp.charsets import to_text, with_names_decoded, with_words_decoded

_HEAD_LIMIT = 65536
_FIELD = re.compile(
    rb"\n(subject|from|message-id)[ \t]*+:[ \t]*([^\n]*(?:\n[ \t][^\n]*)*)", re.IGNORECASE
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
    for name, value in _FIELD.findall(b"\n" + head(raw)):
        found.setdefault(name.lower(), value)
    return HeadColumns(
        decoded(found.get(b"subject", b""))[:255],
        _text("From", to_text(found.get(b"from", b""), None))[:320],
        decoded(found.get(b"message-id", b"")).strip()[:255],
    )


_EMPTY_LINE = re.compile(rb"\n\r?\n")


def head(raw: bytes, limit: int = _HEAD_LIMIT) -> bytes:
    """Return the header section of a mail, of which the first 64 kB, or so many octets."""
    if raw.startswith((b"\n", b"\r\n")):
        return b""
    empty = _EMPTY_LINE.search(raw, 0, limit)
    if empty is None:
        return raw[:limit]
    section = raw[: empty.start()]
    return section.removesuffix(b"\r") if empty[0] == b"\n\r\n" else section


def decoded(value: bytes | str) -> str:
    """Return a header's value as one line of text: RFC 2047 words decoded, controls removed."""
    text = to_text(value, None) if isinstance(value, bytes) else value
    return one_line(with_words_decoded(text) if "=?" in text else text)


# A mail as a whole. compat32 takes what strangers send; policy.default raises on some of it
# and can be made to use gigabytes.


class _Mail(email.message.Message):
    """A mail whose Content-Type may have comments (RFC 2045 5.1) and other additions."""

    def get_content_type(self) -> str:
        """Return what is written, or what is the default where that is no type."""
        kind = _TYPE.match(_CONTENT_COMMENT.sub(" ", self.get("Content-Type", "")))
        return f"{kind[1]}/{kind[2]}".lower() if kind else super().get_content_type()

    def get_boundary(self, failobj: Any = None) -> Any:
        """Return it without a comment behind it."""
        found = _COMMENTED.search(self.get("Content-Type", ""))
        return found[1] or found[2] if found else super().get_boundary(failobj)


_NAME_OF_TYPE = r"[\w.+!#$&^-]++"
_TYPE = re.compile(rf'[\s"]*+({_NAME_OF_TYPE})\s*+/\s*+({_NAME_OF_TYPE})(?!\s*/)', re.ASCII)
_CONTENT_COMMENT = re.compile(r"\([^()]*+\)")
_COMMENTED = re.compile(
    r';\s*+boundary\s*+=\s*+(?:"([^"\\]*+)"\s*+|([^\s";]++)\s++)\(', re.IGNORECASE
)


class _Lenient(Compat32):
    """compat32 with two repairs, since the standard library takes time by the square there."""

    message_factory = _Mail

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
        """Cut the fields whose parameters will be read."""
        name, value = super().header_source_parse(sourcelines)
        return name, self.cut(name, value)

    def cut(self, name: str, value: str) -> str:
        """Return as much of a field as may be read."""
        return value[:2048] if name.lower().startswith("content-") else value

    def header_fetch_parse(self, name: str, value: str) -> Any:
        """Return a field whose parameters will be read with its octets beyond ASCII."""
        is_read = name.lower().startswith("content-")
        return value if is_read else super().header_fetch_parse(name, value)

    def fold_binary(self, name: str, value: str) -> bytes:
        """Write a field as it was, without folding it anew."""
        return f"{name}: {value}{self.linesep}".encode("ascii", "surrogateescape")


_LENIENT = _Lenient()


def parse(raw: bytes) -> email.message.Message:
    """Parse a mail; never raises. What would take too long to take apart stays one part."""
    raw = _with_plain_names(raw)
    if not _is_too_much(raw):
        with contextlib.suppress(Exception):  # nested too deep, or a fault of the parser
            return email.parser.BytesParser(policy=_LENIENT).parsebytes(raw)
    return _in_one_part(raw)


_SPACED_NAME = re.compile(rb"^([!-9;-~]++)[ \t]++:", re.MULTILINE)


def _with_plain_names(raw: bytes) -> bytes:
    """Leave out spaces before a colon, which the library takes for the end of the head.

    Older programs wrote them, and they have to be understood (RFC 5322 4.5).
    """
    section = head(raw)
    if b" :" not in section and b"\t:" not in section:
        return raw
    return _SPACED_NAME.sub(rb"\1:", section) + raw[len(section) :]


def _is_too_much(raw: bytes) -> bool:
    """Say whether there are more lines and parts than any real mail has.

    The parser compares each line with the boundary of each part that it is in, and in a report
    begins a part after each blank line.
    """
    lines, lowered = raw.count(b"\n") + raw.count(b"\r"), raw.lower()
    return (
        lines > 2_000_000
        or lines * lowered.count(b"boundary") > 50_000_000
        or (
            b"message/delivery-status" in lowered
            and raw.count(b"\n\n") + raw.count(b"\n\r") > 50_000
        )
        or raw.count(b"\n--") + raw.count(b"\r--") > 20_000
    )


def _in_one_part(raw: bytes) -> email.message.Message:
    message = parse_head(raw)
    content = raw[len(head(raw)) :].lstrip(b"\r\n")
    message.set_payload(content.decode("ascii", "surrogateescape"))
    return message


def parse_head(raw: bytes) -> email.message.Message:
    """Parse the header section alone, which costs the same however large the mail is."""
    section = head(raw) + b"\r\n\r\n"
    return _plain_head(section) or (
        email.parser.BytesHeaderParser(policy=_LENIENT).parsebytes(_with_plain_names(section))
    )


# Nothing here is tried twice, whatever the bytes are.
_PLAIN_FIELD = re.compile(r"([!-9;-~]++):[ \t]*+([^\r\n]*+(?:\r?\n[ \t][^\r\n]*+)*+)\r?\n")


def _plain_head(section: bytes) -> email.message.Message | None:
    """Parse what is nothing but fields, as nearly all mail has it; None for anything else.

    In a tenth of the time that it takes the standard library, to the same end.
    """
    text, at = section.decode("ascii", "surrogateescape"), 0
    message = _Mail(policy=_LENIENT)
    while field := _PLAIN_FIELD.match(text, at):
        name, value = field.groups()
        message.set_raw(name, _LENIENT.cut(name, value))
        at = field.end()
    message.set_payload("")
    return message if text[at:] == "\r\n" and at else None


def headers(message: email.message.Message) -> list[tuple[str, str]]:
    """Return all header fields in order, as text on one line each."""
    return [(name, _text(name, value)) for name, value in message.raw_items()]


def header(message: email.message.Message, name: str) -> str:
    """Return the first field of that name as text on one line, or ""."""
    return _text(name, raw_header(message, name))


#: The header fields that name people.
OF_PEOPLE = {"from", "sender", "reply-to", "to", "cc"}


def _text(name: str, value: Any) -> str:
    if "=?" in str(value) and name.lower() in OF_PEOPLE:
        return one_line(with_names_decoded(to_text(octets_of(value), None)))
    return text_of_field(value)


def text_of_field(value: Any) -> str:
    """Return the value of a field as it was parsed, as text on one line."""
    text = str(value)
    return decoded(text if text.isascii() else octets_of(text))


def raw_header(message: email.message.Message, name: str) -> str:
    """Return the first field of that name as it was written, or ""."""
    wanted = name.lower()
    for field, value in message.raw_items():
        if field.lower() == wanted:
            return str(value)
    return ""


def octets_of(value: Any) -> bytes:
    """Return a value as it was parsed in its own octets, or UTF-8."""
    return str(value).encode("utf-8", "surrogateescape")


class Attachment(NamedTuple):
    """A part that is not the text: its name as the sender gave it, and its bytes."""

    filename: str
    content_type: str
    content: bytes


def text_of(message: email.message.Message, subtype: str = "plain") -> str:
    """Return the first inline text part of that subtype, or ""; never raises."""
    for part in parts(message):
        if part.get_content_type() == f"text/{subtype}" and not is_attached(part):
            return text_in(part)
    return ""


def body_of(message: email.message.Message) -> str:
    """Return the text to read: the plain one, or what the HTML says where that is blank.

    Never raises.
    """
    text = text_of(message)
    return text if text.strip() else hypertext.text_of(text_of(message, "html")) or text


def attachments(message: email.message.Message) -> list[Attachment]:
    """Return every part that carries a file name or is not inline text; never raises."""
    return [
        Attachment(filename_of(part), part.get_content_type(), content(part))
        for part in parts(message)
        if is_attached(part)
    ]


def parts(message: email.message.Message) -> Iterator[email.message.Message]:
    """Yield the leaves; a mail or report within the mail is one."""
    waiting = [message]
    while waiting:
        part = waiting.pop()
        inner = parts_of(part)
        if inner and (part is message or part.get_content_maintype() != "message"):
            waiting += reversed(inner)
        else:
            yield part


def parts_of(part: email.message.Message) -> list[email.message.Message]:
    """Return the parts that a part is made of; none of one that holds octets."""
    # Not asked for octets, which the library would decode with whatever charset is named.
    return part.get_payload() if part.is_multipart() else []  # type: ignore[return-value]


def is_attached(part: email.message.Message) -> bool:
    """Say whether a part is a file rather than text to read."""
    return (
        part.get_content_maintype() != "text"
        or header(part, "Content-Disposition").lower().startswith("attachment")
        or bool(filename_of(part))
    )


def filename_of(part: email.message.Message) -> str:
    """Return the name that the sender gave a part, or ""; never raises."""
    try:
        name = part.get_param("filename", "", "Content-Disposition") or part.get_param("name", "")
        if isinstance(name, tuple):  # with its charset (RFC 2231)
            return decoded(to_text(name[2].encode("latin-1", "surrogateescape"), name[0]))
        return text_of_field(name)
    except Exception:  # of parameters that the library cannot read
        return ""


def content(part: email.message.Message) -> bytes:
    """Return what a part holds, its transfer encoding undone; never raises."""
    if part.is_multipart():
        return b"\r\n".join(map(_flat, parts_of(part)))
    written = raw_header(part, "Content-Transfer-Encoding")
    encoding = _ENCODING.search(written)
    if encoding and encoding[0] != written:
        part = copy.copy(part)
        del part["Content-Transfer-Encoding"]
        part["Content-Transfer-Encoding"] = encoding[0]
    try:
        octets = part.get_payload(decode=True)
    except Exception:  # of an encoding that the library cannot read
        plain = copy.copy(part)
        del plain["Content-Transfer-Encoding"]
        octets = plain.get_payload(decode=True)
    return octets if isinstance(octets, bytes) else octets_of(octets)


_ENCODING = re.compile(r"(?<![^\s\"])[\w-]++")  # without comments and quotes (RFC 2045 5.1)


def _flat(message: email.message.Message) -> bytes:
    try:
        return message.as_bytes()
    except Exception:  # nested too deep, or a fault of the library
        return b""


def text_in(part: email.message.Message) -> str:
    """Return the text of a part; never raises."""
    try:
        charset = part.get_content_charset()
    except Exception:  # of parameters that the library cannot read
        charset = None
    text = to_text(content(part), charset).removeprefix("\ufeff")
    return text.replace("\r\n", "\n").replace("\0", "\ufffd")


_LINES_LOOKED_AT = 500  #: quotequail takes time by the square of the lines, and of their length


def reply_text(text: str) -> str:
    """Return what the author wrote anew: without the quotation and the signature.

    That is the text above a quotation, or where there is none, below it.
    """
    lines = text.strip().split("\n", _LINES_LOOKED_AT)  # the last has all the rest
    looked_at = "\n".join(line[:500] for line in lines[:_LINES_LOOKED_AT]).rstrip()
    parts = quotequail.unwrap(looked_at) or {}
    if top := parts.get("text_top"):
        count = _count_lines(top)
        quoted = "".join(lines[count : count + 2]).lstrip().startswith(">")
        lines = _without_attribution(lines[:count]) if quoted else lines[:count]
    elif bottom := parts.get("text_bottom"):
        lines = lines[_count_lines(looked_at) - _count_lines(bottom) :]
    return re.split(r"^-- ?$", "\n".join(lines), maxsplit=1, flags=re.MULTILINE)[0].strip()


# "On Monday at 10:00 Ann wrote:" in any language: a time, or else an address, and then a colon.
_ATTRIBUTIONS = [
    re.compile(rf"{sign}.*[:\uff1a][\s\u200e\u200f\u202a-\u202f]*")
    for sign in (r".*?\d[:.h]\d\d(?!\d)", r"[^<]*+<[^<>@\s]++@[^<>@\s]++>")
]


def _without_attribution(lines: list[str]) -> list[str]:
    """Leave out what says whom the quotation below is of: the last line, or up to three."""
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    for attribution in _ATTRIBUTIONS:
        for count in range(1, min(4, len(lines))):
            if not lines[-count].strip():
                break
            if attribution.fullmatch(" ".join(line[:500] for line in lines[-count:])):
                return lines[:-count]
    return lines


def _count_lines(text: str) -> int:
    return text.count("\n") + 1


_REPORT_TYPE = re.compile(r"report-type\s*=\s*\"?([\w-]+)", re.IGNORECASE)


def is_report(message: email.message.Message) -> bool:
    """Say whether this is a delivery report by its form (RFC 3464), not another one (RFC 6522)."""
    if message.get_content_type() != "multipart/report":
        return False
    kind = _REPORT_TYPE.search(raw_header(message, "Content-Type"))
    return kind is None or kind[1].lower() == "delivery-status"


def may_be_report(raw: bytes) -> bool:
    """Say whether it is worth while to parse a mail and ask `is_report`."""
    return b"multipart/report" in head(raw).lower()


def message_ids(value: str) -> list[str]:
    """Return the well-formed ones of the ids in a Message-ID or References field.

    One that some programs would decode as a word of RFC 2047 is none of them.
    """
    return [each for each in re.findall(r"<[!-;=?-~]{1,250}>", value) if "=?" not in each]


def one_line(value: str) -> str:
    """Make a header value of any text: no line ends, no controls, so that no field is added."""
    if value.isprintable() and "  " not in value:  # as most are
        return value.strip(" ")
    return " ".join(_UNPRINTABLE.sub(" ", value).split())


# Controls, bidirectional overrides, invisible, blank and tag characters, halves of surrogate pairs.
# The two joiners stay: Persian and emoji need them.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f"
    "\u2028-\u202e\u2060-\u206f\u2800\u3164\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff"
    "\U0001d173-\U0001d17a\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """Write out the characters that hide, reorder or break text, as in `[U+202E]`.

    >>> visible("exe.\u202egpj")
    'exe.[U+202E]gpj'
    """
    return _HIDDEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)
