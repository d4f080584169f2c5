"""Bytes to mail and mail to bytes, on what strangers send. Pure: no database, no network."""

from __future__ import annotations

import binascii
import contextlib
import copy
import email.message
import email.parser
import email.utils
import encodings.aliases
import io
import pkgutil
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from email.charset import QP, Charset
from email.generator import BytesGenerator
from email.header import Header
from email.mime.multipart import MIMEMultipart
from email.mime.nonmultipart import MIMENonMultipart
from email.policy import SMTP, Compat32
from itertools import groupby
from typing import Any, NamedTuple

import quotequail

from mailapp.addresses import domain_of, split

_HEAD_LIMIT = 65536
_FIELD = re.compile(rb"\n(subject|from|message-id):[ \t]*([^\n]*(?:\n[ \t][^\n]*)*)", re.IGNORECASE)
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
        decoded(found.get(b"from", b""))[:320],
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


# Words as RFC 2047 has them, and with the spaces and the language of RFC 2231 that occur.
_WORD = re.compile(r"=\?([^?*\s]+)(?:\*[^?\s]*)?\?([bq])\?([^?]*)\?=", re.IGNORECASE)
_WORDS = re.compile(r"(?:=\?[^?\s]+\?[bq]\?[^?]*\?=\s*)+", re.IGNORECASE)


def decoded(value: bytes | str) -> str:
    """Return a header's value as one line of text: RFC 2047 words decoded, controls removed."""
    text = to_text(value, None) if isinstance(value, bytes) else value
    return one_line(_WORDS.sub(_decode_words, text) if "=?" in text else text)


def _decode_words(found: re.Match[str]) -> str:
    """Decode words that follow each other; a character may be parted between two of them."""
    words = groupby(_WORD.findall(found[0]), key=lambda word: word[0])
    text = "".join(
        to_text(b"".join(_word_octets(*word[1:]) for word in alike), charset)
        for charset, alike in words
    )
    return text + " " if found[0][-1].isspace() else text


def _word_octets(encoding: str, text: str) -> bytes:
    octets = text.encode("utf-8", "replace")
    if encoding in "qQ":
        return binascii.a2b_qp(octets, header=True)
    digits = re.sub(rb"[^A-Za-z0-9+/]", b"", octets)
    whole = digits[: -1 if len(digits) % 4 == 1 else None]
    return binascii.a2b_base64(whole + b"==")


# The others are no charsets, run for minutes (idna, punycode), or read escapes into the text.
_CHARSETS = (
    {module.name for module in pkgutil.iter_modules(encodings.__path__)}
    | set(encodings.aliases.aliases)
) - {"idna", "punycode", "raw_unicode_escape", "unicode_escape", "mbcs", "oem"}

# What is meant by these names, as in every browser (https://encoding.spec.whatwg.org).
_MEANT = {
    "iso_8859_1": "cp1252",
    "gb2312": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "ks_c_5601_1987": "cp949",
}


def to_text(data: bytes, charset: str | None) -> str:
    """Decode with `charset` where it is known and fits, else UTF-8, else Windows-1252.

    Never raises, and leaves no half of a surrogate pair.
    """
    if charset is None and data.isascii():
        return data.decode("ascii")
    name = encodings.normalize_encoding((charset or "utf_8").lower())
    for known in (_MEANT.get(name, name), "utf_8"):
        if known in _CHARSETS:  # Python remembers for ever each unknown name that it is asked for
            try:
                text = data.decode(known)
                text.encode()
            except (LookupError, ValueError):
                continue
            return text
    return data.decode("cp1252", "replace")


# A mail as a whole. compat32 takes what strangers send; policy.default raises on some of it
# and can be made to use gigabytes.


class _Lenient(Compat32):
    """compat32 with two repairs, since the standard library takes time by the square there."""

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
        """Cut the fields whose parameters will be read."""
        name, value = super().header_source_parse(sourcelines)
        return name, self.cut(name, value)

    def cut(self, name: str, value: str) -> str:
        """Return as much of a field as may be read."""
        return value[:2048] if name.lower().startswith("content-") else value

    def fold_binary(self, name: str, value: str) -> bytes:
        """Write a field as it was, without folding it anew."""
        return f"{name}: {value}{self.linesep}".encode("ascii", "surrogateescape")


_LENIENT = _Lenient()


def parse(raw: bytes) -> email.message.Message:
    """Parse a mail; never raises. What would take too long to take apart stays one part."""
    if not _is_too_much(raw):
        with contextlib.suppress(Exception):  # nested too deep, or a fault of the parser
            return email.parser.BytesParser(policy=_LENIENT).parsebytes(raw)
    return _in_one_part(raw)


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
        email.parser.BytesHeaderParser(policy=_LENIENT).parsebytes(section)
    )


# Nothing here is tried twice, whatever the bytes are.
_PLAIN_FIELD = re.compile(r"([!-9;-~]++):[ \t]*+([^\r\n]*+(?:\r?\n[ \t][^\r\n]*+)*+)\r?\n")


def _plain_head(section: bytes) -> email.message.Message | None:
    """Parse what is nothing but fields, as nearly all mail has it; None for anything else.

    In a tenth of the time that it takes the standard library, to the same end.
    """
    text, at = section.decode("ascii", "surrogateescape"), 0
    message = email.message.Message(policy=_LENIENT)
    while field := _PLAIN_FIELD.match(text, at):
        name, value = field.groups()
        message.set_raw(name, _LENIENT.cut(name, value))
        at = field.end()
    message.set_payload("")
    return message if text[at:] == "\r\n" and at else None


def headers(message: email.message.Message) -> list[tuple[str, str]]:
    """Return all header fields in order, as text on one line each."""
    return [(name, decoded(_as_bytes(value))) for name, value in message.raw_items()]


def header(message: email.message.Message, name: str) -> str:
    """Return the first field of that name as text on one line, or ""."""
    value = raw_header(message, name)
    return decoded(value if value.isascii() else _as_bytes(value))


def raw_header(message: email.message.Message, name: str) -> str:
    """Return the first field of that name as it was written, or ""."""
    wanted = name.lower()
    for field, value in message.raw_items():
        if field.lower() == wanted:
            return str(value)
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
    for part in parts(message):
        if part.get_content_type() == f"text/{subtype}" and not is_attached(part):
            return text_in(part)
    return ""


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
        return decoded(part.get_filename() or "")
    except Exception:  # of parameters that the library cannot read
        return ""


def content(part: email.message.Message) -> bytes:
    """Return what a part holds, its transfer encoding undone; never raises."""
    if part.is_multipart():
        return b"\r\n".join(map(_flat, parts_of(part)))
    try:
        octets = part.get_payload(decode=True)
    except Exception:  # of an encoding that the library cannot read
        plain = copy.copy(part)
        del plain["Content-Transfer-Encoding"]
        octets = plain.get_payload(decode=True)
    return octets if isinstance(octets, bytes) else _as_bytes(octets)


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
    return to_text(content(part), charset).replace("\r\n", "\n").replace("\0", "\ufffd")


_LINES_LOOKED_AT = 500  #: quotequail takes time by the square of the lines, and of their length


def reply_text(text: str) -> str:
    """Return what the author wrote anew: without the quotation and the signature.

    That is the text above a quotation, or where there is none, below it.
    """
    lines = text.strip().split("\n", _LINES_LOOKED_AT)  # the last has all the rest
    looked_at = "\n".join(line[:500] for line in lines[:_LINES_LOOKED_AT]).rstrip()
    parts = quotequail.unwrap(looked_at) or {}
    if top := parts.get("text_top"):
        lines = lines[: _count_lines(top)]
    elif bottom := parts.get("text_bottom"):
        lines = lines[_count_lines(looked_at) - _count_lines(bottom) :]
    return re.split(r"^-- ?$", "\n".join(lines), maxsplit=1, flags=re.MULTILINE)[0].strip()


def _count_lines(text: str) -> int:
    return text.count("\n") + 1


# What says that a machine sent a mail. Some mail systems bounce from an address of their own, and
# some that answer for people on leave know only fields that were there before Auto-Submitted.
_UNLESS_NO = re.compile(r"(?!no\s*(?:$|[;(]))\S", re.IGNORECASE)
_PRECEDENCE = re.compile(r"(?:bulk|junk|list|auto[_-]reply)\b", re.IGNORECASE)
_AUTOMATIC = {
    "auto-submitted": _UNLESS_NO,
    "x-autoreply": _UNLESS_NO,
    "x-autoreply-from": _UNLESS_NO,
    "x-autorespond": _UNLESS_NO,
    "x-mail-autoreply": _UNLESS_NO,
    "precedence": _PRECEDENCE,
    "x-precedence": _PRECEDENCE,
    "return-path": re.compile(r"<>"),
    "from": re.compile(r".*(?:mailer-daemon|\bpostmaster(?:@|\\)|<>)", re.IGNORECASE),
}
_SUPPRESSED = re.compile(r"\b(?:all|oof|autoreply)\b", re.IGNORECASE)

# RFC 3834 section 2 has the first four; nobody reads what the others get. Lists and services put
# into the return path whom they wrote to, as in news-bounces+reader=client.test@example.com.
_MACHINE = re.compile(
    r"mailer[._-]?daemon(?:[+-].*)?|postmaster|owner-.+|.+-request|listserv|majordomo"
    r"|(?:.+[._+-])?bounces?(?:[+=_-].*)?"
    r"|(?:.+[._-])?(?:no|do[._-]?not)[._-]?reply(?:[._+-].*)?",
    re.IGNORECASE,
)


def is_automatic(message: email.message.Message) -> bool:
    """Say whether a machine sent this (RFC 3834 section 2)."""
    return bool(why_automatic(message))


def why_automatic(message: email.message.Message) -> str:
    """Return the field that says that a machine sent this, or ""."""
    if message.get_content_type() == "multipart/report":
        return "Content-Type: multipart/report"
    for name, value in message.raw_items():
        rule = _AUTOMATIC.get(name.lower())
        text = decoded(_as_bytes(value)) if rule else ""
        if name.lower().startswith("list-") or (rule and rule.match(text)):
            return f"{name}: {text}".removesuffix(": ")
    return ""


def why_no_answer(message: email.message.Message) -> str:
    """Return the field by which no machine is to answer this, or ""; there are more such mails."""
    suppressed = header(message, "X-Auto-Response-Suppress")
    if _SUPPRESSED.search(suppressed):
        return f"X-Auto-Response-Suppress: {suppressed}"
    author = mailbox(raw_header(message, "From"))[1]
    return f"From: {author}" if is_of_machine(author) else why_automatic(message)


def is_of_machine(address: str) -> bool:
    """Say whether nobody who reads has such an address.

    >>> is_of_machine("No-Reply@client.test"), is_of_machine("reply@client.test")
    (True, False)
    """
    return bool(_MACHINE.fullmatch(address.rpartition("@")[0] or address))


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


# Addresses and ids that a stranger wrote into a header.


# What most mail has, found in a tenth of the time that the standard library's parser takes.
_ADDRESS = r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*"
_WORD_OF_NAME = r"[\w.!#$%&'*+/=?^`{|}~-]++"
_DISPLAY_NAME = rf'"([ !#-\[\]-~]*+)"|({_WORD_OF_NAME}(?: {_WORD_OF_NAME})*+)'
_PLAIN_MAILBOX = re.compile(
    rf"\s*+(?:(?:{_DISPLAY_NAME})?\s*+<({_ADDRESS})>|({_ADDRESS}))\s*+", re.ASCII
)


def mailbox(value: str) -> tuple[str, str]:
    """Return the display name and the address of the first mailbox of a field; never raises.

    `value` is not decoded yet, or an encoded word could pretend to be the address.
    """
    if plain := _PLAIN_MAILBOX.fullmatch(value):
        return decoded(plain[1] or plain[2] or ""), plain[3] or plain[4]
    return any_mailbox(value)


def any_mailbox(value: str) -> tuple[str, str]:
    """Do the same with the standard library."""
    try:
        name, address = email.utils.parseaddr(one_line(to_text(_as_bytes(value[:20_000]), None)))
    except RecursionError:  # of comments in comments
        return "", ""
    return decoded(name), address


def mailboxes(value: str) -> list[tuple[str, str]]:
    """Return the display name and the address of each mailbox of a field; never raises."""
    text = one_line(to_text(_as_bytes(value[:20_000]), None))
    try:
        found = email.utils.getaddresses([text])
    except RecursionError:  # of comments in comments
        return []
    return [(decoded(name), address) for name, address in found]


def authors(message: email.message.Message) -> list[str]:
    """Return the address of each mailbox of each From field; "" for one that cannot be read."""
    fields = (str(value) for name, value in message.raw_items() if name.lower() == "from")
    return [address for field in fields for _, address in mailboxes(field)]


def message_ids(value: str) -> list[str]:
    """Return the well-formed ones of the ids in a Message-ID or References field.

    One that some programs would decode as a word of RFC 2047 is none of them.
    """
    return [each for each in re.findall(r"<[!-;=?-~]{1,250}>", value) if "=?" not in each]


# Mail that we compose.


class _Composed(Compat32):
    """compat32 that writes plain fields in a tenth of the time: nearly all, ids among them."""

    def fold_binary(self, name: str, value: Any) -> bytes:
        """Write a field."""
        if not _is_plain(value):
            folded = super().fold_binary(name, value)
        elif len(name) + len(": ") + len(value) <= _LINE:
            return f"{name}: {value}\r\n".encode("ascii")
        elif _PLAIN_WORDS.fullmatch(value):
            folded = f"{_at_spaces(name, value)}\r\n".encode("ascii")
        else:
            folded = super().fold_binary(name, value)
        if _fits(folded) or not isinstance(value, str):
            return folded
        return super().fold_binary(name, _in_words(name, value))


def _is_plain(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.isprintable()


_PLAIN_WORDS = re.compile("[^ ,;]+(?: [^ ,;]+)*")  # the library would rather fold at , and ;


def _at_spaces(name: str, value: str) -> str:
    """Fold a field at its spaces, as the standard library does."""
    lines, before = [f"{name}: "], ""
    for word in value.split(" "):
        if len(lines[-1]) + len(before) + len(word) > _LINE:
            lines.append("")
            before = " "
        lines[-1] += before + word
        before = " "
    return "\r\n".join(lines)


def _fits(folded: bytes) -> bool:
    return max(map(len, folded.splitlines()), default=0) <= _LONGEST_LINE


_WITH_ADDRESSES = {"from", "sender", "to", "cc", "reply-to"}


_NAME = re.compile(r"[!-9;-~]+")  # RFC 5322 3.6.8


def _check_name(name: str) -> None:
    """Raise ValueError for a name that would be more than that: a line end, or a value."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a header field")


def _spelt_out(name: str, value: str) -> str:
    """Return a text as a field holds it; what looks like words of RFC 2047 is no such words.

    Decoded by whoever reads it, it could become anything: line ends, too.
    """
    return _in_words(name, value) if _seems_encoded(name, value) else value


def _seems_encoded(name: str, value: str) -> bool:
    """Say whether a text could be taken for words; those of names in addresses are meant so."""
    return "=?" in value and name.lower() not in _WITH_ADDRESSES


def _in_words(name: str, value: str) -> str:
    """Write a field in words of RFC 2047, since it has one of its own that fits on no line."""
    if name.lower() not in _WITH_ADDRESSES:
        return Header(value, "utf-8", header_name=name).encode()
    boxes = email.utils.getaddresses([value])
    named = (f"{Header(who, 'utf-8').encode()} <{address}>" for who, address in boxes)
    return ", ".join(named)


_LINE, _LONGEST_LINE = 78, 998  # RFC 5322 2.1.1
_COMPOSED = _Composed(linesep="\r\n")


def to_bytes(message: email.message.Message) -> bytes:
    """Write a composed mail with CRLF line ends; raise ValueError for a field without a name."""
    for name in message.keys():  # noqa: SIM118 - a mail is no dict
        _check_name(name)
    out = io.BytesIO()
    # Django composes with compat32 up to 5.2, and with the policy that knows addresses from 6.0.
    policy = _COMPOSED if isinstance(message.policy, Compat32) else SMTP
    BytesGenerator(out, mangle_from_=False, policy=policy).flatten(message)
    return out.getvalue()


def compose(fields: Mapping[str, str], text: str, html: str = "") -> bytes:
    """Write a mail of these fields, each on one line, and these texts, whatever they hold.

    Not by way of Django, whose mails from 6.0 on know addresses, and refuse some or fold them away.
    Raise ValueError for what cannot be the name of a field.
    """
    for name in fields:
        _check_name(name)
    fields = {name: _spelt_out(name, value) for name, value in fields.items()}
    return at_once(fields, text, html) or composed(fields, text, html)


def at_once(fields: Mapping[str, str], text: str, html: str) -> bytes | None:
    """Write a mail in a tenth of the standard library's time; None where that is not so easy."""
    return _alternatives(fields, text, html) if html else _text(fields, text)


def _text(fields: Mapping[str, str], text: str, subtype: str = "plain") -> bytes | None:
    """Write a mail, or a part of one, of one text."""
    octets = text.encode(errors="replace")
    lines = octets.split(b"\n")
    if b"\r" in octets or max(map(len, lines)) > _LONGEST_LINE:
        return None
    above = {
        "Content-Type": f'text/{subtype}; charset="utf-8"',
        "MIME-Version": "1.0",
        "Content-Transfer-Encoding": "7bit" if octets.isascii() else "8bit",
    }
    return _head_of({**above, **fields}.items()) + b"\r\n".join(lines)


def _alternatives(fields: Mapping[str, str], text: str, html: str) -> bytes | None:
    """Write a mail of a text and its HTML."""
    plain, rich = _text({}, text), _text({}, html, "html")
    has_another = any(name.lower() == "content-type" for name in fields)
    if plain is None or rich is None or has_another:
        return None
    boundary = f"==={secrets.token_hex(12)}=="
    above = [
        ("Content-Type", f'multipart/alternative; boundary="{boundary}"'),
        ("MIME-Version", "1.0"),
    ]
    begin, end = f"--{boundary}\r\n".encode(), f"--{boundary}--\r\n".encode()
    head = _head_of([*above, *fields.items()])
    return b"".join([head, begin, plain, b"\r\n", begin, rich, b"\r\n", end])


def _head_of(fields: Iterable[tuple[str, str]]) -> bytes:
    """Write the fields of a mail and the empty line below them."""
    return b"".join([_COMPOSED.fold_binary(*field) for field in fields]) + b"\r\n"


def composed(fields: Mapping[str, str], text: str, html: str) -> bytes:
    """Write it with the standard library."""
    mail = _text_part(text, "plain")
    if html:
        mail = MIMEMultipart("alternative", _subparts=[mail, _text_part(html, "html")])
    for name, value in fields.items():
        mail[name] = value
    return to_bytes(mail)


def _text_part(text: str, subtype: str) -> email.message.Message:
    text = text.encode(errors="replace").decode()  # there may be halves of surrogate pairs
    part = MIMENonMultipart("text", subtype, charset="utf-8")
    part.set_payload(text, _QUOTED if _has_long_lines(text) else _AS_IT_IS)
    return part


def _has_long_lines(text: str) -> bool:
    return max(map(len, text.encode().splitlines()), default=0) > _LONGEST_LINE


_AS_IT_IS, _QUOTED = Charset("utf-8"), Charset("utf-8")
_AS_IT_IS.body_encoding = None  # type: ignore[assignment]
_QUOTED.body_encoding = QP


def named(name: str, address: str) -> str:
    """Write a mailbox as a header field holds it, whatever its name is."""
    if not name:
        return _as_it_reads(address)
    if not name.isascii() or "=?" in name:
        return f"{Header(name, 'utf-8').encode()} <{_as_it_reads(address)}>"
    quoted = re.sub(r'([\\"])', r"\\\1", name)
    return f'"{quoted}" <{_as_it_reads(address)}>'


_LIKE_A_GROUP = re.compile(r'[^\s"]*:[^\s"]*')


def _as_it_reads(address: str) -> str:
    """Write an address for programs that know none but those of RFC 5322, and decode words."""
    local, domain = split(address)
    if not local.isascii() or "=?" in local:
        local = Header(local, "utf-8", maxlinelen=_LONGEST_LINE).encode()
    elif _LIKE_A_GROUP.fullmatch(local):
        local = f'"{local}"'
    elif domain.isascii():
        return address
    return f"{local}@{domain if domain.isascii() else domain_of(address) or domain}"


def one_line(value: str) -> str:
    """Make a header value of any text: no line ends, no controls, so that no field is added."""
    if value.isprintable() and "  " not in value:  # as most are
        return value.strip(" ")
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


def with_fields(fields: Sequence[tuple[str, str]], raw: bytes) -> bytes:
    """Put header fields above the bytes of a mail, which stay as they are (DKIM still holds).

    Raise ValueError for what cannot be the name of a field.
    """
    for name, _ in fields:
        _check_name(name)
    ours = [_written(name, one_line(value)) for name, value in fields]
    if _CONTINUES.match(raw):  # it would go on with our last field, and so could add to it
        ours.append(b"X-Unnamed:\r\n")
    return b"".join(ours) + raw


_CONTINUES = re.compile(rb"\0*[ \t]")


def without_fields(names: Sequence[str], raw: bytes) -> bytes:
    r"""Return a mail without the header fields of these names.

    >>> without_fields(["From"], b"from: you\r\n folded\r\nTo: me\r\n\r\nFrom: here\r\n")
    b'To: me\r\n\r\nFrom: here\r\n'
    """
    field = rb"^(?:%b)[ \t]*:.*\n(?:[ \t].*\n)*" % "|".join(map(re.escape, names)).encode()
    end = raw.find(b"\n", len(head(raw, len(raw)))) + 1 or len(raw)
    left, removed = re.subn(field, b"", raw[:end], flags=re.IGNORECASE | re.MULTILINE)
    return left + raw[end:] if removed else raw


def _written(name: str, value: str) -> bytes:
    """Write a field in ASCII, on lines of at most 998 octets."""
    if value.isascii() and not _seems_encoded(name, value):
        return _COMPOSED.fold_binary(name, value)
    words = Header(value, "utf-8", header_name=name).encode(linesep="\r\n")
    return f"{name}: {words}\r\n".encode()


_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")


def as_sent(raw: bytes) -> bytes:
    r"""Return the bytes of a mail as they go to the smart host, before dots are doubled.

    A bare CR or LF becomes CRLF and a NUL is left out, since neither may be sent (RFC 5321
    2.3.8); the last line is ended. Otherwise these are the stored bytes.

    >>> as_sent(b"one\ntwo\rthree")
    b'one\r\ntwo\r\nthree\r\n'
    """
    content = raw.replace(b"\0", b"")
    if not content.count(b"\r\n") == content.count(b"\r") == content.count(b"\n"):
        content = _BARE.sub(b"\r\n", content)
    return content if content.endswith(b"\r\n") else content + b"\r\n"


def new_message_id(hostname: str) -> str:
    """A Message-ID that nobody else has (RFC 5322 3.6.4)."""
    return email.utils.make_msgid(domain=hostname)
