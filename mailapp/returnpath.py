"""Return paths that nobody else can make: of one delivery (VERP), of a forwarded mail (SRS).

Their tags are made with SECRET_KEY, or with one of SECRET_KEY_FALLBACKS. Pure but for these.
"""

from __future__ import annotations

import base64
import hmac
import re
import time
from functools import lru_cache

from django.conf import settings
from django.utils.crypto import salted_hmac

from mailapp.addresses import fold, split, take_path
from mailapp.errors import BadAddress

_TAG_LENGTH = 10  # 50 bits, in an alphabet that survives the loss of case
_DIGITS = "abcdefghijklmnopqrstuvwxyz234567"
_DAYS_IN_A_STAMP = len(_DIGITS) ** 2
_DAYS_GOOD = 21  # of an SRS address: nobody tries to deliver a mail for longer

#: What routes capture: each local part that may be one of ours.
LOCAL_PART = r"bounce\+[0-9]{1,18}-[a-z2-7]+|srs0=[a-z2-7]+=[a-z2-7]{2}=[^=]+=.+"

_DELIVERY = re.compile(r"bounce\+([0-9]{1,18})-([a-z2-7]+)")
_SRS = re.compile(r"srs0=([a-z2-7]+)=([a-z2-7]{2})=([^=]+)=(.+)", re.ASCII | re.IGNORECASE)


def of_delivery(key: int, domain: str) -> str:
    """Return the address that a bounce of this delivery comes back to."""
    return f"bounce+{key}-{_tag('delivery', str(key), settings.SECRET_KEY)}@{domain}"


def delivery_of(address: str) -> int | None:
    """Return the key of the delivery that an address was made for; None if we did not make it."""
    named = _DELIVERY.fullmatch(split(fold(address))[0])
    return int(named[1]) if named and _is_ours(named[2], "delivery", named[1]) else None


def of_sender(sender: str, domain: str, *, days_ago: int = 0) -> str:
    """Return an SRS0 address at `domain` from which bounces go on to `sender`.

    An address that has no room for it in 64 octets, or needs quotes, is returned as it is.
    """
    local, foreign = split(sender)
    named = f"{_stamp(_today() - days_ago)}={foreign}={local}"
    address = f"SRS0={_tag('srs', named, settings.SECRET_KEY)}={named}@{domain}"
    try:
        take_path(f"<{address}>")
    except BadAddress:
        return sender
    return address


def sender_of(address: str) -> str | None:
    """Return the sender that an SRS0 address stands for; None if it is not ours or too old."""
    named = _SRS.fullmatch(split(address)[0])
    if named is None:
        return None
    tag, stamp, domain, local = named.groups()
    if not _is_ours(fold(tag), "srs", f"{stamp}={domain}={local}") or _age(stamp) > _DAYS_GOOD:
        return None
    return f"{local}@{domain}"


def _is_ours(tag: str, purpose: str, text: str) -> bool:
    keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return any(hmac.compare_digest(tag, _tag(purpose, text, key)) for key in keys)


def _tag(purpose: str, text: str, secret: str | bytes) -> str:
    """Return what only who has the secret can say of a text, whatever its case."""
    digest = hmac.digest(_key(purpose, secret), fold(text).encode(), "sha256")
    return base64.b32encode(digest[:10])[:_TAG_LENGTH].decode().lower()


@lru_cache
def _key(purpose: str, secret: str | bytes) -> bytes:
    """Return a key of its own for each purpose; the relay needs it for each delivery."""
    return salted_hmac(f"mailapp.returnpath.{purpose}", "", secret, algorithm="sha256").digest()


def _today() -> int:
    return int(time.time() // 86400)


def _stamp(day: int) -> str:
    high, low = divmod(day % _DAYS_IN_A_STAMP, len(_DIGITS))
    return _DIGITS[high] + _DIGITS[low]


def _age(stamp: str) -> int:
    """Days since a stamp, which comes again after nearly three years."""
    high, low = (_DIGITS.index(digit) for digit in fold(stamp))
    return (_today() - high * len(_DIGITS) - low) % _DAYS_IN_A_STAMP
