"""Mail to bytes: what we compose, and what we put above the mail of others. Pure."""

from __future__ import annotations

import email.message
import email.utils
import io
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from email.charset import QP, Charset
from email.generator import BytesGenerator
from email.header import Header
from email.mime.multipart import MIMEMultipart
from email.mime.nonmultipart import MIMENonMultipart
from email.policy import SMTP, Compat32
from typing import Any

from mailapp.addresses import domain_of, quoted, split
from mailapp.mime import OF_PEOPLE, head, one_line

_LINE, _LONGEST_LINE = 78, 998  # octets, RFC 5322 2.1.1


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
    whole_head = _head_of([*above, *fields.items()])
    return b"".join([whole_head, begin, plain, b"\r\n", begin, rich, b"\r\n", end])


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


def to_bytes(message: email.message.Message) -> bytes:
    """Write a composed mail with CRLF line ends; raise ValueError for a field without a name."""
    for name in message.keys():  # noqa: SIM118 - a mail is no dict
        _check_name(name)
    out = io.BytesIO()
    # Django composes with compat32 up to 5.2, and with the policy that knows addresses from 6.0.
    policy = _COMPOSED if isinstance(message.policy, Compat32) else SMTP
    BytesGenerator(out, mangle_from_=False, policy=policy).flatten(message)
    return out.getvalue()


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
    return f"{quoted(name)} <{_as_it_reads(address)}>"


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


# How fields are written.


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
    return "=?" in value and name.lower() not in OF_PEOPLE


def _in_words(name: str, value: str) -> str:
    """Write a field in words of RFC 2047, since it has one of its own that fits on no line."""
    if name.lower() not in OF_PEOPLE:
        return Header(value, "utf-8", header_name=name).encode()
    boxes = email.utils.getaddresses([value])
    named = (f"{Header(who, 'utf-8').encode()} <{address}>" for who, address in boxes)
    return ", ".join(named)


def _written(name: str, value: str) -> bytes:
    """Write a field in ASCII, on lines of at most 998 octets."""
    if value.isascii() and not _seems_encoded(name, value):
        return _COMPOSED.fold_binary(name, value)
    words = Header(value, "utf-8", header_name=name).encode(linesep="\r\n")
    return f"{name}: {words}\r\n".encode()


_COMPOSED = _Composed(linesep="\r\n")
