"""Links by which one click leads off a list (RFC 8058). Pure but for the key, SECRET_KEY."""

from __future__ import annotations

from typing import NamedTuple

from django.core.signing import BadSignature, Signer
from django.dispatch import Signal

from mailapp.conf import mail_settings
from mailapp.errors import LinkForged

_SALT = "mailapp.unsubscribing"

#: Somebody has clicked: sent in a transaction with `list_address` and `address`. Take them off.
unsubscribed = Signal()


class Wish(NamedTuple):
    """Who wants to get off which list."""

    list_address: str
    address: str


def link(wish: Wish) -> str:
    """Return the address of the page for this wish, which nobody can make for another one."""
    return f"{mail_settings().UNSUBSCRIBE_URL}{Signer(salt=_SALT).sign_object(wish)}/"


def wish_of(token: str) -> Wish:
    """Read the last part of a link; raise LinkForged."""
    try:
        return Wish(*Signer(salt=_SALT).unsign_object(token))
    except BadSignature as error:
        raise LinkForged(token) from error


def fields(wish: Wish) -> bytes:
    """Return the header fields that offer the link, which no folding may tear (RFC 8058 3.1)."""
    return (
        f"List-Unsubscribe: <{link(wish)}>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
    ).encode()
