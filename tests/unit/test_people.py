"""Whom a header field names: nobody, where it can be read in several ways."""

from __future__ import annotations

import email
import email.policy
import json
import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailapp import mime, people
from tests.vectors import IDENTITY, REASON


@pytest.mark.parametrize(
    ("field", "mailbox"),
    [
        ("One <one@client.test>", ("One", "one@client.test")),
        ("one@client.test", ("", "one@client.test")),
        ("<one+tag@client.test>\r\n", ("", "one+tag@client.test")),
        ("<one@client.test", ("", "one@client.test")),
        ("one@client.test (One)", ("One", "one@client.test")),
        ("=?utf-8?q?J=C3=B6rg?= <j@client.test>", ("Jörg", "j@client.test")),
        ("=?utf-8?q?=3Cboss=40client.test=3E?= <x@elsewhere.test>",
         ("<boss@client.test>", "x@elsewhere.test")),
        ('"One, Two" <one@client.test>', ("One, Two", "one@client.test")),
        ("", ("", "")),
    ],
)  # fmt: skip
def test_author_is_read_before_encoded_words_are_decoded(field, mailbox):
    assert people.mailbox(field) == mailbox


MAILBOX_PARTS = [*' "\\(,:<>@ü', "Ann", "B.", "=?utf-8?q?J=C3=B6?="]
# No dots at the end of a domain, which are left out here and refused there; nothing beyond ASCII,
# which ends an address there.
PARTS_OF_FIELDS = [*' "\\(,:<>@);[]', "Ann", "=?utf-8?q?J=C3=B6?=", "a@b.test", "(c)"]


@given(st.lists(st.sampled_from(MAILBOX_PARTS), max_size=6).map("".join))
def test_plain_mailbox_is_read_as_any_other_is(name):
    for field in (f"{name} <ann@client.test>", f'"{name}"<ann@client.test>', name):
        found = people.any_mailboxes(field)
        assert people.mailboxes(field) == found
        assert people.mailbox(field) == (found[0] if len(found) == 1 else ("", ""))


@given(st.lists(st.sampled_from(PARTS_OF_FIELDS), max_size=12).map("".join))
def test_author_is_whom_the_standard_library_reads_when_it_is_strict(field):
    _, address = people.mailbox(field)

    parsed = email.message_from_string(f"From: {field}\n\n", policy=email.policy.default)
    known = (
        [re.sub(r'\\|""', "", each.addr_spec) for each in parsed["from"].addresses]
        if address
        else []
    )
    assert "@" not in address or re.sub(r'\\|""', "", address) in known


@pytest.mark.parametrize(
    ("field", "found"),
    [
        ("a@x.test, <b@y.test>", [("", "a@x.test"), ("", "b@y.test")]),
        ('"B, C" <b@y.test>,, Ünn <a@x.test>,', [("B, C", "b@y.test"), ("Ünn", "a@x.test")]),
        ("a@x.test (A), b@y.test (B (C))", [("A", "a@x.test"), ("B (C)", "b@y.test")]),
        ("Us: a@x.test;", [("Us", ""), ("", "a@x.test")]),
        ("undisclosed-recipients:;", [("undisclosed-recipients", "")]),
        (":a@x.test", [("", ""), ("", "a@x.test")]),
        (";a@x.test", [("", ""), ("", "a@x.test")]),
        ("a@x.test; b@y.test", [("", "a@x.test"), ("", ""), ("", "b@y.test")]),
        ("root", [("root", "")]),
        ("=?utf-8?q?J=C3=B6?=a@b.test", [("Jöa@b.test", "")]),
        ("a@x.test b@y.test", [("a@x.test b@y.test", "")]),
        ("=?utf-8?q?=3Ca=40x=2Etest=3E?=, <b@y.test>", [("<a@x.test>", ""), ("", "b@y.test")]),
        ("admin@x.test <b@y.test>", [("admin@x.test", "b@y.test")]),
        (r'"A \"B\" \\" <b@y.test>', [('A "B" \\', "b@y.test")]),
        ("<admin@x.test.>", [("", "admin@x.test")]),
        ('"admin@x.test"@y.test', [("", '"admin@x.test"@y.test')]),
        ("foo..bar.@x.test", [("", "foo..bar.@x.test")]),
        ("a@[127.0.0.1]", [("", "a@[127.0.0.1]")]),
        ("[List] Ann <a@x.test>", [("[List] Ann", "a@x.test")]),
        ("", []),
    ],
)
def test_each_mailbox_of_a_field_is_found(field, found):
    assert people.mailboxes(field) == found


@pytest.mark.parametrize(
    "field",
    [
        "alice@example.org)bob@example.com",
        "admin(<x@y.test>)@x.test (c) <b@y.test>",
        "<@y.test:admin@x.test>",
        '"unclosed <alice@example.org>',
        "(unclosed alice@example.org",
        "<a@x.test> <b@y.test>",
        "<<a@x.test>>",
        "@x.test <b@y.test>",
        "a@x.test<b@y.test>",
        "[ <b@y.test>",
        "<>",
        "<root>",
    ],
)
def test_field_that_can_be_read_in_several_ways_names_nobody(field):
    assert people.mailboxes(field) == [("", "")]
    assert people.mailbox(field) == ("", "")


@pytest.mark.parametrize("piece", ["(", "(()", "((", '"', '"\\"', "(\\(", "\\(", "a@", "a <", "a:"])
def test_hostile_field_takes_bounded_time(piece):
    for before, after in product(["", '"', "(", "<"], ["", '"', ")", " <a@x.test>"]):
        people.mailboxes(f"{before}{piece * 20_000}{after}")


@pytest.mark.parametrize(
    ("head", "authors"),
    [
        (b"From: a@x.test\r\nFrom: b@y.test", ["a@x.test", "b@y.test"]),
        (b"From: a@x.test\r\nFrom:", ["a@x.test", ""]),
        (b"From:", [""]),
        (b"Subject: From: a@x.test", []),
        (b" From: a@x.test\r\nFrom: b@y.test", ["b@y.test", ""]),
        (b"From: b@y.test\r\njunk\r\nFrom: a@x.test", ["b@y.test", ""]),
        (b"From somebody\r\nFrom: b@y.test", ["b@y.test"]),
    ],
)
def test_author_that_other_programs_may_find_is_counted(head, authors):
    assert people.authors(mime.parse_head(head + b"\r\n\r\n")) == authors


SOLE_AUTHORS = {
    "displayname-addr": "any@attack.com",
    "displayname-encoded-addr": "any@attack.com",
    "nul-in-name": "any@attack.com",
    "quoted-local-at": '"admin@legitimate.com"@attack.com',
    "idn-domain": "admin@leg\u0131t\u0131mate.com",
    "trailing-dot": "admin@legitimate.com",
    "kelvin": "\N{KELVIN SIGN}ate@legitimate.com",
    "rtl": "any@attack.com",
}


@pytest.mark.skipif(not IDENTITY.exists(), reason=REASON)
def test_only_who_is_the_author_beyond_doubt_is_the_author():
    cases = json.loads(IDENTITY.read_text())["header_cases"]

    found = {
        case["id"]: people.authors(mime.parse_head(bytes.fromhex(case["headers_hex"]) + b"\r\n"))
        for case in cases
    }

    sole = {name: authors[0] for name, authors in found.items() if len(authors) == 1}
    assert {name: author for name, author in sole.items() if author} == SOLE_AUTHORS
