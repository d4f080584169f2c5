"""What we sign verifies as long as it is what we wrote; dkimpy is the judge."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from hypothesis import assume, given
from hypothesis import strategies as st

from mailapp import composing, dkim
from tests import signatures
from tests.signatures import pem, weak_key

KEYS: dict[str, dkim.Key] = {
    "rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
}
SIGNERS = [dkim.Signer("example.com", selector, key) for selector, key in KEYS.items()]
DNS = {f"{selector}._domainkey.example.com": dkim.record(key) for selector, key in KEYS.items()}
MAIL = (
    b"Received: from client.test\r\n"
    b"From: Reader <reader@example.com>\r\n"
    b"To: you@client.test\r\n"
    b"Subject: Hello,\r\n you\r\n"
    b"Date: Sat, 28 Nov 2026 10:00:00 +0000\r\n"
    b"Message-ID: <1@example.com>\r\n"
    b"Content-Type: text/plain\r\n"
    b"List-Unsubscribe: <https://example.com/leave>\r\n"
    b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
    b"\r\n"
    b"Hello  you.\r\n"
)


def signed(raw: bytes, signers: Sequence[dkim.Signer] = SIGNERS) -> bytes:
    return composing.as_sent(dkim.signatures(raw, signers, 1_700_000_000) + raw)


def verdicts(mail: bytes) -> list[bool]:
    return signatures.verdicts(mail, DNS)


def test_each_signature_verifies():
    assert verdicts(signed(MAIL)) == [True, True]


def test_nothing_of_the_mail_itself_changes():
    assert signed(MAIL).endswith(MAIL)


def test_lines_of_a_signature_are_short():
    signature = signed(MAIL).removesuffix(MAIL)

    assert max(map(len, signature.split(b"\r\n"))) <= 78


# Whatever may be in a mail: white space and line ends of all kinds, empty lines, 8-bit, dots.
WORDS = st.sampled_from(
    [b" ", b"\t", b"\r\n", b"\n", b"\r", b"\0", b".", b"a", b"=", b"\xff", "ё".encode(), b"x" * 999]
)
BODIES = st.lists(WORDS, max_size=30).map(b"".join)
VALUES = st.lists(
    st.sampled_from(
        [b" ", b"\t", b"\r\n ", b"\r\n\t", b"\n ", b"a", b":", b";", b"\xff", "ё".encode()]
    ),
    max_size=20,
).map(b"".join)
NAMES = st.sampled_from(
    [b"Subject", b"subject", b"To", b"Date", b"List-Id", b"Received", b"X-Own", b"Reply-To"]
)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=8)


def written(fields: Sequence[tuple[bytes, bytes]], body: bytes) -> bytes:
    head = [b"From: reader@example.com", *(name + b": x" + value for name, value in fields)]
    return b"\r\n".join([*head, b"", body])


@given(fields=FIELDS, body=BODIES)
def test_any_mail_verifies(fields, body):
    assert verdicts(signed(written(fields, body))) == [True, True]


@pytest.mark.parametrize(
    "body", [b"", b"\r\n", b"\r\n\r\n", b" \r\n\t", b"no line end", b"a \r\n\r\n"]
)
def test_body_that_is_empty_or_ends_oddly_verifies(body):
    assert verdicts(signed(written([], body))) == [True, True]


def test_mail_without_a_body_verifies():
    assert verdicts(signed(b"From: reader@example.com\r\n")) == [True, True]


def test_head_beyond_ascii_verifies():
    raw = "From: <lës@example.com>\r\nSubject: ёж\r\n\r\nпривет\r\n".encode()

    assert verdicts(signed(raw)) == [True, True]


@given(fields=FIELDS, body=BODIES, place=st.integers(min_value=0), octet=st.sampled_from(b"QZ"))
def test_one_octet_changed_in_the_body_is_noticed(fields, body, place, octet):
    mail = signed(written(fields, body))
    begin = mail.index(b"\r\n\r\n") + 4
    assume(mail[begin:].strip())
    places = [at for at in range(begin, len(mail)) if mail[at] not in b" \t\r\n"]
    at = places[place % len(places)]

    changed = mail[:at] + bytes([octet]) + mail[at + 1 :]

    assert verdicts(changed) == [False, False]


# In the middle of what is signed; white space may change, and the name of a field its case.
SIGNED = [
    match.start()
    for match in re.finditer(rb"[^\s:]", MAIL.partition(b"\r\n\r\n")[0])
    if match.start() > MAIL.index(b"From")
]


@given(at=st.sampled_from(SIGNED))
def test_one_octet_changed_in_a_signed_field_is_noticed(at):
    mail = signed(MAIL)
    at += len(mail) - len(MAIL)

    changed = mail[:at] + b"~" + mail[at + 1 :]

    assert verdicts(changed) == [False, False]


@pytest.mark.parametrize(
    "field",
    [
        "From: boss@example.com",
        "Subject: Pay",
        "To: all@client.test",
        "Cc: all@client.test",
        "Reply-To: thief@client.test",
        "Date: Sun, 29 Nov 2026 10:00:00 +0000",
        "Content-Type: text/html",
        "List-Unsubscribe: <https://thief.test>",
    ],
)
def test_field_that_somebody_adds_is_noticed(field):
    added = f"{field}\r\n".encode()

    assert verdicts(added + signed(MAIL)) == [False, False]
    assert verdicts(signed(MAIL.replace(b"\r\n\r\n", b"\r\n" + added + b"\r\n", 1))) == [True, True]


@pytest.mark.parametrize("field", ["Received: by mx", "Date: today", "Message-ID: <1@mx>"])
def test_field_that_a_relay_adds_where_it_is_missing_does_no_harm(field):
    raw = b"From: reader@example.com\r\n\r\nHello.\r\n"

    assert verdicts(f"{field}\r\n".encode() + signed(raw)) == [True, True]


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_key_is_read_from_pem(key):
    read = dkim.read_key(pem(key))

    assert dkim.record(read) == dkim.record(key)


@pytest.mark.parametrize(("ed25519", "kind"), [(False, "rsa"), (True, "ed25519")])
def test_new_key_can_be_used(ed25519, kind):
    made = dkim.read_key(dkim.new_key(ed25519=ed25519))

    assert dkim.record(made).startswith(f"v=DKIM1; k={kind}; p=")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "."),
        (b"no key", "."),
        (pem(KEYS["rsa"])[:500], "."),
        (pem(KEYS["rsa"], BestAvailableEncryption(b"secret")), "encrypted"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "neither RSA nor Ed25519"),
        (pem(weak_key()), "RSA of 648 bits is too weak"),
    ],
    ids=["empty", "no key", "half a key", "encrypted", "another kind", "weak"],
)
def test_what_is_no_key_for_us_is_refused(content, why):
    with pytest.raises(ValueError, match=why):
        dkim.read_key(content)
