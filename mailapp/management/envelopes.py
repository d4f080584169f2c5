"""Who sent a mail that lies in a mailbox, and to whom, as far as that can still be told."""

from __future__ import annotations

from collections.abc import Iterator

from mailapp import charsets, mime
from mailapp.conf import mail_settings
from mailapp.errors import BadAddress
from mailapp.mailboxes import Found
from mailapp.maildir import Envelope, read_envelope

from .submission import addresses_in, envelope_address


def envelope_of(found: Found) -> Envelope:
    """Return the envelope that the mailbox has kept; what it has not is taken from the header.

    Both may be missing there, too: then the sender is None, and there are no recipients.
    """
    try:
        sender, recipients = read_envelope(found.content)
    except BadAddress:
        sender, recipients = None, []
    if sender is None:
        named = [found.sender] if "@" in found.sender else []  # not MAILER-DAEMON, as many are
        sender = next(_good([*named, *_in_header(found.content, {"from"})]), None)
    return Envelope(sender, recipients or _once(_in_header(found.content, {"to", "cc", "bcc"})))


def _in_header(content: bytes, names: set[str]) -> Iterator[str]:
    for name, value in mime.parse_head(content).raw_items():
        if name.lower() in names:
            written = str(value).encode("utf-8", "surrogateescape")
            try:
                yield from addresses_in(mime.one_line(charsets.to_text(written, None)))
            except BadAddress:
                continue


def _once(addresses: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(_good(addresses)))


def _good(addresses: Iterator[str] | list[str]) -> Iterator[str]:
    for address in filter(None, addresses):
        try:
            yield envelope_address(address, mail_settings().hostname)
        except BadAddress:
            continue
