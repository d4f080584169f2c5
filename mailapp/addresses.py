"""Addresses of the envelope: parse, fold, split. Pure."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import string
import unicodedata

from mailapp.errors import BadAddress

_ASCII_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)

# RFC 5321 4.5.3.1: octets, the angle brackets of a path not counted.
_LOCAL_LIMIT = 64
_DOMAIN_LIMIT = 255
_ADDRESS_LIMIT = 254

# RFC 5321 4.1.2, with RFC 6531 3.3 where a part may hold more than ASCII.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
# The grammar has no colon, but addresses do, and nothing here gives it a meaning.
_UTF8_ATOM = r"(?:[A-Za-z0-9!#$%&'*+/:=?^_`{|}~-]|[^\x00-\x7f])+"
_QUOTED = r'"(?:[ !#-\[\]-~]|\\[ -~]|[^\x00-\x7f])*"'
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_LOCAL = rf"(?:{_UTF8_ATOM}(?:\.{_UTF8_ATOM})*|{_QUOTED})"
_ROUTE = r"(?:(?P<route>@[^\s:,@<>]+(?:,@[^\s:,@<>]+)*):)?"

_PLAIN = re.compile(rf"<({_ATOM}(?:\.{_ATOM})*)@({_LABEL}(?:\.{_LABEL})*)>")
_PATH = re.compile(rf"<{_ROUTE}(?P<local>{_LOCAL})(?:@(?P<domain>\[[!-Z^-~]+\]|[^\s@<>\[\]]+))?>")
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_DOT_STRING = re.compile(rf"{_UTF8_ATOM}(?:\.{_UTF8_ATOM})*")
_QUOTED_PAIR = re.compile(r"\\(.)")
_NEEDS_BACKSLASH = re.compile(r'(["\\])')
# The others are the question mark and the accent of Greek and the sign of Kelvin, of which NFC
# makes ASCII: other people.
_NO_ASCII_IN_NFC = re.compile("[^\u037e\u1fef\u212a]+")
# What Unicode counts as a letter or a mark, and shows as nothing.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def fold(address: str) -> str:
    """Return the form under which an address is one person: ASCII letters in lower case.

    >>> fold("Ann@Example.COM")
    'ann@example.com'
    """
    # Of ASCII the same, in a tenth of the time.
    return address.lower() if address.isascii() else address.translate(_ASCII_LOWER)


def split(address: str) -> tuple[str, str]:
    """Return local part and domain, parted at the last `@`; the domain is "" without one.

    >>> split('"a@b"@example.com')
    ('"a@b"', 'example.com')
    """
    local, at, domain = address.rpartition("@")
    return (local, domain) if at else (address, "")


def domain_of(address: str) -> str:
    """Return the domain of an address, as `a_labels` writes it; "" where there is none.

    >>> domain_of("ann@Bücher.example"), domain_of("ann")
    ('xn--bcher-kva.example', '')
    """
    with contextlib.suppress(BadAddress):
        return a_labels(split(address)[1])
    return ""


def take_path(text: str) -> tuple[str, str]:
    r"""Read the path that `text` begins with; return its address and what follows it.

    The local part comes back in its shortest form, the domain in lower case, as A-labels; a
    source route is dropped, as RFC 5321 appendix C asks; `<>` is "", and only `<postmaster>`
    needs no domain. Raise BadAddress otherwise.

    >>> take_path("<Ann@Example.COM> SIZE=100")
    ('Ann@example.com', ' SIZE=100')
    >>> take_path(r'<"ann"@example.com>'), take_path(r'<"a\b c"@example.com>')
    (('ann@example.com', ''), ('"ab c"@example.com', ''))
    """
    if text.startswith("<>"):
        return "", text[2:]
    plain = _PLAIN.match(text)
    if plain is not None:
        local, domain = plain[1], plain[2].lower()
        end = plain.end()
    else:
        local, domain, end = _take_unusual_path(text)
    address = f"{local}@{domain}" if domain else local
    if len(address) > _LOCAL_LIMIT or not address.isascii():
        _check_lengths(local, domain)
    return address, text[end:]


def whole(text: str) -> str:
    """Return the address that all of `text` is, in the form of `take_path`; raise BadAddress.

    >>> whole("Ann@Example.COM")
    'Ann@example.com'
    """
    try:
        address, rest = take_path(f"<{text}>")
    except BadAddress:
        raise BadAddress(repr(text)) from None
    if rest or not address:
        raise BadAddress(repr(text))
    return address


def at_host(address: str, host: str) -> str:
    """Return an address with a domain; a lone postmaster is the one at `host` (RFC 5321 4.1.1.3).

    >>> at_host("Postmaster", "example.com"), at_host("ann@example.org", "example.com")
    ('Postmaster@example.com', 'ann@example.org')
    """
    return address if "@" in address else f"{address}@{host}"


def _take_unusual_path(text: str) -> tuple[str, str, int]:
    path = _PATH.match(text)
    if path is None or not path["local"].isprintable():
        raise BadAddress
    _check_lengths(path["local"], "")
    if path["route"]:
        for hop in path["route"][1:].split(",@"):
            a_labels(hop)
    local, domain = _shortest(path["local"]), path["domain"] or ""
    if domain.startswith("["):
        domain = _literal(domain)
    elif domain:
        domain = a_labels(domain)
    elif fold(local) != "postmaster":  # RFC 5321 4.1.1.3
        raise BadAddress
    return local, domain, path.end()


def _shortest(local: str) -> str:
    """Return the form without needless quoting; all are one mailbox (RFC 5321 4.1.2)."""
    content = _QUOTED_PAIR.sub(r"\1", local[1:-1]) if local.startswith('"') else local
    content = _NO_ASCII_IN_NFC.sub(lambda part: unicodedata.normalize("NFC", part[0]), content)
    if _DOT_STRING.fullmatch(content):
        return content
    return quoted(content)


def quoted(text: str) -> str:
    r"""Return text as a quoted string (RFC 5322 3.2.4).

    >>> quoted('an "old" one')
    '"an \\"old\\" one"'
    """
    return '"' + _NEEDS_BACKSLASH.sub(r"\\\1", text) + '"'


def _check_lengths(local: str, domain: str) -> None:
    local_octets, domain_octets = len(local.encode()), len(domain)
    if (
        local_octets > _LOCAL_LIMIT
        or domain_octets > _DOMAIN_LIMIT
        or local_octets + 1 + domain_octets > _ADDRESS_LIMIT
    ):
        raise BadAddress("too long")


def _literal(text: str) -> str:
    inner = text[1:-1]
    if "%" in inner:
        raise BadAddress("a zone means nothing elsewhere")
    kind = ipaddress.IPv4Address
    if inner[:5].lower() == "ipv6:":
        inner, kind = inner[5:], ipaddress.IPv6Address  # type: ignore[assignment]
    try:
        kind(inner)
    except ValueError as error:
        raise BadAddress from error
    return text.lower()


def a_labels(domain: str) -> str:
    """Return a domain in lower-case ASCII, its U-labels as A-labels; raise BadAddress otherwise.

    Mapped as UTS 46 does without its transitional exceptions, so `ß` stays itself.

    >>> a_labels("ＥＸＡＭＰＬＥ.com"), a_labels("bücher.example")
    ('example.com', 'xn--bcher-kva.example')
    """
    if not domain.isascii():
        mapped = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", domain).lower())
        domain = ".".join(_a_label(label) for label in re.split("[.\u3002]", mapped))
    if not _DOMAIN.fullmatch(domain):
        raise BadAddress
    return domain.lower()


def _a_label(label: str) -> str:
    if label.isascii():
        return label
    allowed = all(unicodedata.category(char)[0] in "LMN" or char == "-" for char in label)
    if not allowed or unicodedata.category(label[0])[0] == "M" or _INVISIBLE.search(label):
        raise BadAddress
    if "-" in (label[0], label[-1]) or label[2:4] == "--":  # RFC 5891 4.2.3.1
        raise BadAddress
    return "xn--" + label.encode("punycode").decode("ascii")
