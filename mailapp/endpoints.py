"""Places as settings write them: where we listen, and where outgoing mail goes. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit


class Endpoint(NamedTuple):
    """A host (name or address) and a TCP port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read `host:port` or `[v6]:port`; raise ValueError otherwise."""
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isdecimal() or not 0 <= int(port) <= 65535:
            raise ValueError(f"{text!r} is not host:port")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_here(self) -> bool:
        """True when what is sent there never leaves this machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


class Tls(StrEnum):
    """How a connection is encrypted."""

    VERIFIED = "verified"  #: for a server that proves its name
    UNVERIFIED = "unverified"  #: whoever answers: no help against who is in between
    NONE = "none"


_PORTS = {"smtp": 25, "smtps": 465, "lmtp": 24}

# These tell what is wrong without the text itself, which may hold a password.
_FORM = (
    "must be smtp://[user@]host[:port], smtps:// or lmtp:// likewise, lmtp:///path/of/socket, "
    "or a Django email backend"
)
_OPTION = "can only be followed by ?tls=verified, ?tls=unverified or, unless it is smtps, ?tls=none"
_CLEAR = "needs TLS, or everybody on the way could read the password"
_ASCII = "can have nothing but ASCII in user and password"


@dataclass(frozen=True, kw_only=True)
class SmartHost:
    """A server that takes mail for others, by SMTP or LMTP."""

    scheme: str  #: smtp, with STARTTLS unless `tls` says otherwise; smtps; lmtp
    place: Endpoint | Path  #: a Path is a Unix socket
    tls: Tls
    user: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> SmartHost:
        """Read `host:port`, or a URL such as `smtp://user:password@host:587?tls=unverified`.

        Without ?tls it is `verified`, and `none` on this machine. Raise ValueError, which does
        not name the password.
        """
        is_url = "://" in text
        parts, port = _split(text if is_url else f"smtp://{text}")
        if not is_url and port is None:
            raise ValueError(_FORM)
        place = _place(parts, port)
        here = isinstance(place, Path) or place.is_here
        made = cls(
            scheme=parts.scheme,
            place=place,
            tls=_tls(parts, here),
            user=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
        )
        if not f"{made.user}{made.password}".isascii():
            raise ValueError(_ASCII)
        if made.user and made.tls == Tls.NONE and not here:
            raise ValueError(_CLEAR)
        return made

    def __str__(self) -> str:
        """Write it as a URL, without the password."""
        user = f"{quote(self.user)}@" if self.user else ""
        return f"{self.scheme}://{user}{self.place}"


def _split(url: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(_FORM) from None
    return parts, port


def _place(parts: SplitResult, port: int | None) -> Endpoint | Path:
    if parts.scheme == "lmtp" and not parts.netloc and parts.path.startswith("/"):
        return Path(unquote(parts.path))
    host, rest = parts.hostname or "", parts.path.strip("/") + parts.fragment
    if parts.scheme not in _PORTS or rest or not re.fullmatch(r"[\w.:-]+", host):
        raise ValueError(_FORM)
    return Endpoint(host, _PORTS[parts.scheme] if port is None else port)


def _tls(parts: SplitResult, here: bool) -> Tls:
    usual = Tls.NONE if here and parts.scheme != "smtps" else Tls.VERIFIED
    options = parse_qs(parts.query, keep_blank_values=True) or {"tls": [usual]}
    for tls in Tls:
        if options == {"tls": [tls]} and (tls, parts.scheme) != (Tls.NONE, "smtps"):
            return tls
    raise ValueError(_OPTION)


class Backend(NamedTuple):
    """A Django email backend: the path of its class, or its alias in MAILERS."""

    name: str

    @property
    def is_alias(self) -> bool:
        return "." not in self.name

    def __str__(self) -> str:
        return self.name


Upstream = SmartHost | Backend


def upstream(text: str) -> Upstream:
    """Read where outgoing mail goes; raise ValueError, which does not name a password."""
    if re.fullmatch(r"[^\W\d][\w-]*(\.[^\W\d]\w*)*", text):
        return Backend(text)
    return SmartHost.parse(text)
