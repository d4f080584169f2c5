"""Whom a header field names: the grammar of mailboxes (RFC 5322 3.4), as strangers use it. Pure."""

from __future__ import annotations

import email.message
import re
from email.errors import FirstHeaderLineIsContinuationDefect, MissingHeaderBodySeparatorDefect

from mailapp.charsets import to_text
from mailapp.mime import decoded, octets_of, one_line

# The standard library reads these in another way in each of its versions (CVE-2023-27043). What
# most mail has is found in a tenth of the time.
_ADDRESS = r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*"
_WORD_OF_NAME = r"[\w.!#$%&'*+/=?^`{|}~-]++"
_DISPLAY_NAME = rf'"([ !#-\[\]-~]*+)"|({_WORD_OF_NAME}(?: {_WORD_OF_NAME})*+)'
_PLAIN_MAILBOX = re.compile(
    rf"\s*+(?:(?:{_DISPLAY_NAME})?\s*+<({_ADDRESS})>|({_ADDRESS}))\s*+", re.ASCII
)

_QUOTED = r'"((?:[^"\\]|\\.)*+)"'
_COMMENT = r"\((?:[^()\\]|\\.)*+\)"
for _ in range(3):  # comments in comments
    _COMMENT = rf"\((?:[^()\\]|\\.|{_COMMENT})*+\)"
_QUOTED_OR_COMMENT = re.compile(rf"{_QUOTED}|\\.|({_COMMENT})")
_QUOTED_PAIR = re.compile(r"\\(.)")

# One element of a field in which \0 stands for each comment. An unquoted address as a name is
# common; no encoded word is an address.
_LOCAL = r'(?:"(?:[^"\\]|\\.)*+"|(?:(?!=\?)[^\s\0"\\()<>\[\]:;@,])++)'
_LABEL = r'[^\s\0"\\()<>\[\]:;@,.=?]++'
_ANY_ADDRESS = rf"{_LOCAL}@(?:{_LABEL}(?:\.{_LABEL})*+|\[[^\s\0\[\]<>]*+\])"
_ANY_NAME = r'(?:"(?:[^"\\]|\\.)*+"|\[[^"\\()<>\[\]:;@,]++\]|[^"\\()<>\[\]:;,]++)*+'
_NO_ADDRESS = re.compile(r"\0|(?:^|\s)@|@\s|@[^\s@]*+$")
_ELEMENT = re.compile(
    rf"(?:({_ANY_NAME})<\s*+({_ANY_ADDRESS})\.?\s*+(?:>|$)|[\s\0]*+({_ANY_ADDRESS})\.?|({_ANY_NAME}))"
    rf"[\s\0]*+(?:[,;]|$)|({_ANY_NAME}):"
)
_UNREADABLE = [("", "")]


def mailbox(value: str) -> tuple[str, str]:
    """Return the display name and the address of the one mailbox of a field; never raises.

    Both are "" where there are several, or the field can be read in several ways. `value` is not
    decoded yet, or an encoded word could pretend to be the address.
    """
    if plain := _PLAIN_MAILBOX.fullmatch(value):
        return decoded(plain[1] or plain[2] or ""), plain[3] or plain[4]
    found = any_mailboxes(value)
    return found[0] if len(found) == 1 else ("", "")


def mailboxes(value: str) -> list[tuple[str, str]]:
    """Return the display name and the address of each mailbox of a field; never raises.

    The address is "" of a name without one, as is that of a group, whose mailboxes follow. Both
    are where a field can be read in several ways.
    """
    return [mailbox(value)] if _PLAIN_MAILBOX.fullmatch(value) else any_mailboxes(value)


def any_mailboxes(value: str) -> list[tuple[str, str]]:
    """Do the same in more time, however the field is written."""
    text = one_line(to_text(octets_of(value[:20_000]), None))
    comments = (each[2] for each in _QUOTED_OR_COMMENT.finditer(text) if each[2])
    text = _QUOTED_OR_COMMENT.sub(lambda each: "\0" if each[2] else each[0], text)
    found, at, in_group = [], 0, False
    while at < len(text):
        if not (element := _ELEMENT.match(text, at)):
            return _UNREADABLE
        at = element.end()
        named, address, bare, alone, group = element.groups()
        name = named or alone or group or ""
        unquoted = _QUOTED_OR_COMMENT.sub("", name) if address and "@" in name else ""
        if "@" in unquoted and _NO_ADDRESS.search(unquoted):
            return _UNREADABLE
        beside = " ".join(next(comments)[1:-1] for _ in range(element[0].count("\0")))
        shown = _unquoted(name.replace("\0", " ")) or beside
        if name.strip("\0 ") or address or bare or group is not None:
            found.append((shown, address or bare or ""))
        ends_group = element[0].endswith(";")
        if ends_group and not in_group:  # some programs part addresses so, others stop there
            found += _UNREADABLE
        in_group = group is not None or (in_group and not ends_group)
    return found


def _unquoted(name: str) -> str:
    return decoded(_QUOTED_OR_COMMENT.sub(lambda each: _QUOTED_PAIR.sub(r"\1", each[1]), name))


def authors(message: email.message.Message) -> list[str]:
    """Return the address of each mailbox of each From field; "" for one that cannot be read.

    There is such a one too where other programs may find a field that is none here.
    """
    fields = [str(value) for name, value in message.raw_items() if name.lower() == "from"]
    found = [address for field in fields for _, address in mailboxes(field) or _UNREADABLE]
    return [*found, ""] if any(isinstance(each, _OF_HEAD) for each in message.defects) else found


_OF_HEAD = (FirstHeaderLineIsContinuationDefect, MissingHeaderBodySeparatorDefect)
