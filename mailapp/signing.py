"""Which mail is signed, and with which keys: what MAIL["DKIM"] means. Reads the keys' files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

from mailapp import mime, people
from mailapp.addresses import domain_of
from mailapp.conf import mail_settings
from mailapp.errors import KeyUnusable

if TYPE_CHECKING:
    from mailapp.dkim import Key


def signed(raw: bytes) -> bytes:
    """Return a mail of ours below the signatures that its author's domain has keys for.

    Raise KeyUnusable if one of these keys cannot be used: a mail that is to be signed is signed
    or not sent.
    """
    domains = mail_settings().DKIM
    domain = _author_domain(raw) if domains else ""
    return _signatures(raw, domain, domains[domain]) + raw if domain in domains else raw


def signed_copy(copy: bytes, stored: bytes, list_address: str) -> bytes:
    """Return a reader's copy of a post below signatures of the list, which hold its link to leave.

    RFC 8058 4 wants that. They say that it came by the list, and so are not made where they could
    be taken for the author's: the author is at the list's own domain, and the post was not signed
    when it was `stored`. Raise KeyUnusable.
    """
    domains = mail_settings().DKIM
    domain = domain_of(list_address) if domains else ""
    if domain not in domains or not (_is_ours(stored) or _is_of_others(stored, domain)):
        return copy
    return _signatures(copy, domain, domains[domain]) + copy


def _is_ours(stored: bytes) -> bool:
    """Say whether we signed a post: on one of somebody else there are other fields of ours."""
    return stored.startswith(b"DKIM-Signature:")


def _is_of_others(stored: bytes, domain: str) -> bool:
    """Say whether nobody wrote it whose domain DMARC could take for this one (RFC 7489 3.1).

    Not of a mail in whose head other programs may find another author.
    """
    if len(_LIKE_FROM.findall(mime.head(stored))) > 1:
        return False
    theirs = [domain_of(author) for author in people.authors(mime.parse_head(stored))]
    return bool(theirs) and all(each and not _are_related(each, domain) for each in theirs)


# An indented one has an address, or is in the list of fields of another signature.
_LIKE_FROM = re.compile(
    rb"(?:^|[\r\n])\0*+(?:from[\0\s]*+:|[\0 \t]++from[\0\s]*+:[^\r\n@]*+@)", re.IGNORECASE
)


def _are_related(one: str, other: str) -> bool:
    return one.split(".")[-2:] == other.split(".")[-2:]


def _author_domain(raw: bytes) -> str:
    return domain_of(next(iter(people.authors(mime.parse_head(raw))), ""))


def _signatures(raw: bytes, domain: str, selectors: Mapping[str, str]) -> bytes:
    keys = {selector: key(path) for selector, path in selectors.items()}
    from mailapp.dkim import Signer, signatures  # the keys are there, so cryptography is

    return signatures(raw, [Signer(domain, *each) for each in keys.items()], int(time()))


def key(path: str) -> Key:
    """Return the key in a file, read once for each change of it; raise KeyUnusable."""
    try:
        file = Path(path).stat()
        return _read(path, (file.st_ino, file.st_mtime_ns))
    except (ImportError, OSError, ValueError) as error:
        raise KeyUnusable(f"{path}: {error}") from error


@lru_cache
def _read(path: str, version: tuple[int, int]) -> Key:
    from mailapp.dkim import read_key

    return read_key(Path(path).read_bytes())
