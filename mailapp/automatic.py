"""Tell mail that machines sent from mail of people (RFC 3834), which alone is answered. Pure."""

from __future__ import annotations

import email.message
import re

from mailapp import mime

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
        text = mime.text_of_field(value) if rule else ""
        if name.lower().startswith("list-") or (rule and rule.match(text)):
            return f"{name}: {text}".removesuffix(": ")
    return ""


def why_no_answer(message: email.message.Message) -> str:
    """Return the field by which no machine is to answer this, or ""; there are more such mails."""
    suppressed = mime.header(message, "X-Auto-Response-Suppress")
    if _SUPPRESSED.search(suppressed):
        return f"X-Auto-Response-Suppress: {suppressed}"
    machine = next(filter(is_of_machine, mime.authors(message)), "")
    return f"From: {machine}" if machine else why_automatic(message)


def is_of_machine(address: str) -> bool:
    """Say whether nobody who reads has such an address.

    >>> is_of_machine("No-Reply@client.test"), is_of_machine("reply@client.test")
    (True, False)
    """
    return bool(_MACHINE.fullmatch(address.rpartition("@")[0] or address))
