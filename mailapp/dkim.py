"""DKIM signatures (RFC 6376, RFC 8463) for mail that we compose. Pure: a mail and keys go in.

The only user of cryptography, which is an extra: who imports this has seen that it is there.
"""

from __future__ import annotations

import base64
import re
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from mailapp import composing

Key = RSAPrivateKey | Ed25519PrivateKey

LEAST_BITS = 1024  # of RSA; verifiers ignore smaller keys (RFC 8301 3.2)

# Each is named once more than it occurs, so that nobody can add one that readers see instead.
_SEALED = ("from", "reply-to", "subject", "to", "cc")
# The same where they occur; a relay may add those that are missing. RFC 6376 5.4.1, RFC 8058 4.
_SIGNED = (
    *("date", "message-id", "in-reply-to", "references"),
    *("mime-version", "content-type", "content-transfer-encoding"),
    *("list-id", "list-help", "list-unsubscribe", "list-unsubscribe-post"),
    *("list-subscribe", "list-post", "list-owner", "list-archive"),
)
_FIELD = re.compile(rb"\r\n([!-9;-~]+)[ \t]*:([^\r]*(?:\r\n[ \t][^\r]*)*)")
_FOLDED = re.compile(rb"[ \t\r\n]+")


@dataclass(frozen=True)
class Signer:
    """Whose key it is, and where in the DNS its public half is: `SELECTOR._domainkey.DOMAIN`."""

    domain: str  #: as A-labels
    selector: str
    key: Key


def read_key(pem: bytes) -> Key:
    """Read an RSA or Ed25519 key; raise ValueError for anything else, or what is too weak."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (TypeError, UnsupportedAlgorithm) as error:  # it is encrypted, or of another kind
        raise ValueError(str(error)) from error
    if not isinstance(key, Key):
        raise ValueError("it is neither RSA nor Ed25519")  # noqa: TRY004 - of the file, no argument
    if isinstance(key, RSAPrivateKey) and key.key_size < LEAST_BITS:
        raise ValueError(f"RSA of {key.key_size} bits is too weak")
    return key


def new_key(*, ed25519: bool = False) -> bytes:
    """Make a key, RSA of 2048 bits or Ed25519, as PEM."""
    key: Key
    if ed25519:
        key = Ed25519PrivateKey.generate()
    else:
        key = generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def record(key: Key) -> str:
    """Return the TXT record that publishes the public half of a key (RFC 6376 3.6.1)."""
    if isinstance(key, RSAPrivateKey):
        encoding, form, kind = Encoding.DER, PublicFormat.SubjectPublicKeyInfo, "rsa"
    else:
        encoding, form, kind = Encoding.Raw, PublicFormat.Raw, "ed25519"  # RFC 8463 4
    return f"v=DKIM1; k={kind}; p={_base64(key.public_key().public_bytes(encoding, form))}"


def signatures(raw: bytes, signers: Sequence[Signer], at: int) -> bytes:
    """Return the fields that sign a mail as it is sent, one for each signer, to stand above it.

    `at` is the time, in seconds since 1970.
    """
    head, _, body = (b"\r\n" + composing.as_sent(raw)).partition(b"\r\n\r\n")
    fields: dict[str, list[bytes]] = defaultdict(list)
    for name, value in _FIELD.findall(head):
        fields[name.lower().decode()].append(value)
    named = _names(fields)
    signed = b"".join(_relaxed(name, fields[name].pop()) for name in named if fields[name])
    about = f"h={': '.join(named)}; bh={_base64(sha256(_relaxed_body(body)).digest())}"
    return b"".join(_signature(signer, f"t={at}; {about}", signed) for signer in signers)


def _names(fields: dict[str, list[bytes]]) -> list[str]:
    """Name the fields to sign: each as often as it occurs, and once more."""
    return [
        name
        for name in (*_SEALED, *_SIGNED)
        if name in fields or name in _SEALED
        for _ in range(len(fields.get(name, ())) + 1)
    ]


def _relaxed(name: str, value: bytes) -> bytes:
    """A field with its line end, by RFC 6376 3.4.2."""
    return name.encode() + b":" + _FOLDED.sub(b" ", value).strip(b" ") + b"\r\n"


def _relaxed_body(body: bytes) -> bytes:
    """The body by RFC 6376 3.4.4."""
    body = body.replace(b"\t", b" ")
    while b"  " in body:  # a tenth of the time that a regular expression takes
        body = body.replace(b"  ", b" ")
    body = body.replace(b" \r\n", b"\r\n").rstrip(b"\r\n")
    return body + b"\r\n" if body else b""


def _signature(signer: Signer, about: str, signed: bytes) -> bytes:
    kind = "rsa-sha256" if isinstance(signer.key, RSAPrivateKey) else "ed25519-sha256"
    field = _folded(
        f"DKIM-Signature: v=1; a={kind}; c=relaxed/relaxed; d={signer.domain}; "
        f"s={signer.selector}; {about}; b="
    )
    covered = signed + _relaxed("dkim-signature", field.partition(b":")[2])[: -len(b"\r\n")]
    digits = _base64(_sign(signer.key, covered))
    return field + b"\r\n " + _folded(digits, break_long_words=True) + b"\r\n"


def _folded(text: str, *, break_long_words: bool = False) -> bytes:
    lines = textwrap.wrap(text, 76, break_long_words=break_long_words, break_on_hyphens=False)
    return "\r\n ".join(lines).encode()


def _sign(key: Key, data: bytes) -> bytes:
    if isinstance(key, RSAPrivateKey):
        return key.sign(data, PKCS1v15(), SHA256())
    return key.sign(sha256(data).digest())  # RFC 8463 3


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()
