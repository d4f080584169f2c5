"""Which mail is signed, and with which keys: what MAIL["DKIM"] means. Reads the keys' files."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

from mailapp import mime
from mailapp.addresses import a_labels, split
from mailapp.conf import mail_settings
from mailapp.errors import BadAddress, KeyUnusable

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


def _author_domain(raw: bytes) -> str:
    author = mime.mailbox(mime.raw_header(mime.parse_head(raw), "From"))[1]
    with contextlib.suppress(BadAddress):
        return a_labels(split(author)[1])
    return ""


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
