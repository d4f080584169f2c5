"""DKIM as others see it: keys in files, records in the DNS, and what dkimpy says of a mail."""

from __future__ import annotations

import re
from collections.abc import Mapping

import dkim as oracle
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)


def verdicts(mail: bytes, dns: Mapping[str, str]) -> list[bool]:
    """Say of each signature of a mail whether it verifies; `dns` has the TXT record of a name."""
    signatures = re.findall(rb"^DKIM-Signature:", mail, re.MULTILINE)
    return [_verifies(mail, number, dns) for number in range(len(signatures))]


def _verifies(mail: bytes, number: int, dns: Mapping[str, str]) -> bool:
    def look_up(name: bytes, timeout: int = 5) -> bytes | None:
        record = dns.get(name.decode().rstrip("."))
        return record and record.encode()

    try:
        return bool(oracle.DKIM(mail).verify(number, dnsfunc=look_up))
    except oracle.DKIMException:
        return False


def pem(key, encryption: KeySerializationEncryption | None = None) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def weak_key() -> rsa.RSAPrivateKey:
    """RSA of 648 bits, of two primes that everybody knows; the library makes none so small."""
    p, q, e = 2**521 - 1, 2**127 - 1, 65537
    d = pow(e, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(e, p * q)
    numbers = rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), public)
    return numbers.private_key()
