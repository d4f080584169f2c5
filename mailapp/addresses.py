"""Addresses of the envelope: parse, fold, split. Pure."""

from __future__ import annotations

import string

_ASCII_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def fold(address: str) -> str:
    """Return the form under which an address is one person: ASCII letters in lower case.

    >>> fold("Ann@Example.COM")
    'ann@example.com'
    """
    return address.translate(_ASCII_LOWER)


def split(address: str) -> tuple[str, str]:
    """Return local part and domain, parted at the last `@`; the domain is "" without one.

    >>> split('"a@b"@example.com')
    ('"a@b"', 'example.com')
    """
    local, at, domain = address.rpartition("@")
    return (local, domain) if at else (address, "")
