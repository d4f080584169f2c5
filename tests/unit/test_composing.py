"""Mail to bytes: any text is read as it was written, whoever reads it."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.errors import HeaderParseError
from email.policy import Compat32

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailapp import composing, mime, people


@given(st.text())
def test_header_of_any_text_stays_one_field(value):
    written = composing.with_fields(
        [("X-Any", value), ("X-Next", "next")], b"Subject: Mine\r\n\r\n"
    )

    parsed = mime.parse(written)
    assert [name for name, _ in mime.headers(parsed)] == ["X-Any", "X-Next", "Subject"]
    assert written.isascii()


@pytest.mark.parametrize("value", ["Grüße an alle", "a" * 40 + " \N{GRINNING FACE}" * 60])
def test_header_that_we_write_is_read_the_same(value):
    written = composing.with_fields([("X-Any", value)], b"\r\n")

    assert mime.header(mime.parse(written), "X-Any") == value
    assert max(map(len, written.split(b"\r\n"))) <= 78


def test_fields_are_put_above_bytes_that_stay_as_they_are():
    raw = b"subject:  Odd\r\n\tfolding \r\n\r\n\0\xff body\n.\r"

    assert composing.with_fields([("X-Mine", "yes")], raw) == b"X-Mine: yes\r\n" + raw


@pytest.mark.parametrize("text", ["=?utf-8?q?Hi=0D=0ABcc:_x?=", "a =?us-ascii?q?=00?= b", "x=?y"])
def test_text_that_looks_like_an_encoded_word_is_read_as_it_is(text):
    fields = {"Subject": text, "X-Mine": text, "From": composing.named(text, "you@example.com")}

    raw = composing.with_fields([("X-Above", text)], composing.compose(fields, "Hello\n"))

    read = message_from_bytes(raw, policy=policy.default)
    assert [read["Subject"], read["X-Mine"], read["X-Above"]] == [text] * 3
    assert [box.display_name for box in read["From"].addresses] == [text]


@pytest.mark.parametrize("start", [b" ", b"\t", b"\0\0 "])
def test_mail_that_begins_folded_does_not_go_on_with_a_field_of_ours(start):
    mail = start + b", <they@client.test>\r\nSubject: Hi\r\n\r\n"

    raw = composing.with_fields([("From", "you@example.com")], mail)

    assert raw.endswith(mail)
    assert people.authors(mime.parse(composing.as_sent(raw))) == ["you@example.com"]


@pytest.mark.parametrize("name", ["From", "X-Mine"])
def test_field_without_a_space_is_folded_all_the_same(name):
    value = composing.named("a" * 5000, "you@example.com") if name == "From" else "a" * 5000

    raw = composing.with_fields([(name, value)], b"Subject: Hi\r\n\r\n")

    read = message_from_bytes(raw, policy=policy.compat32)
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    assert raw.count(b"\n") == raw.count(b"\r\n")
    assert mime.header(read, name).replace('"', "").removesuffix(" <you@example.com>") == "a" * 5000


@pytest.mark.parametrize("name", ["X\r\nBcc", "X\nBcc", "X: Y", "X Y", "X\0", "Ü", ""])
def test_name_of_a_field_that_is_more_than_a_name_is_refused(name):
    with pytest.raises(ValueError, match="not the name of a header field"):
        composing.compose({"Subject": "Hi", name: "you@example.com"}, "Hello\n")
    with pytest.raises(ValueError, match="not the name of a header field"):
        composing.with_fields([(name, "you@example.com")], b"Subject: Hi\r\n\r\n")


@pytest.mark.parametrize(
    "address",
    ["a:b@client.test", "=?utf-8?q?x=0D=0ABcc?=@client.test", '"a b"@client.test', "ü@client.test"],
)
def test_unusual_address_is_read_as_it_is(address):
    raw = composing.compose(
        {"To": composing.named("", address), "Cc": composing.named("You", address)}, ""
    )

    read = message_from_bytes(raw, policy=policy.default)
    for field in ("To", "Cc"):
        [box] = read[field].addresses
        assert f"{box.username}@{box.domain}" == address.replace('"', "")


def test_text_with_half_of_a_surrogate_pair_can_be_written():
    assert b"a ? b" in composing.compose({}, "a \ud800 b", "<p>a \udfff b</p>")


# Plain answers

FIELDS = {"Subject": "Hi", "From": "list@example.com", "To": "a@client.test", "Message-ID": "<1@a>"}


TEXTS = [
    "",
    "\n",
    "Hello\n",
    "Hello\n\nFrom you\n.\n",
    "a" * 998 + "\n",
    "Gr\u00fc\u00dfe\u2028\x0c\n",
    "\ud800",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_alone_is_what_the_standard_library_writes(text):
    fields = FIELDS | {"Date": "Mon, 01 Jan 2024 00:00:00 +0000"}

    assert composing.at_once(fields, text, html="") == composing.composed(fields, text, html="")


def test_boundary_is_another_in_each_mail():
    one, other = (composing.at_once(FIELDS, "Hello\n", "<p>Hello</p>\n") for _ in range(2))

    assert one != other


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("html", ["<p>Hello</p>\n", "<p>Gr\u00fc\u00dfe</p>"])
def test_text_with_html_is_what_the_standard_library_writes(text, html):
    fields = FIELDS | {"X-Mine": "one, two; three " * 10}

    ours, theirs = composing.at_once(fields, text, html), composing.composed(fields, text, html)

    assert _with_boundary(ours) == _with_boundary(theirs)


def _with_boundary(raw: bytes) -> bytes:
    """Have the same boundary in each mail, on the same line."""
    boundary = message_from_bytes(raw).get_boundary()
    return raw.replace(b";\r\n boundary=", b"; boundary=").replace(boundary.encode(), b"=_")


LONG_ID = f"<{'a' * 60}@client.test>"
VALUES = [
    LONG_ID,
    " ".join([LONG_ID, "<b@client.test>", "<c@client.test>", LONG_ID, "<d@client.test>"]),
    "one, two; three " * 10,
    "a" * 78,
    "a" * 999,
    "Gr\u00fc\u00dfe",
    "",
]


@pytest.mark.parametrize("value", VALUES)
def test_field_above_text_alone_is_what_the_standard_library_writes(value):
    fields = FIELDS | {"Subject": value, "References": value, "X-A": value}

    assert composing.at_once(fields, "Hello\n", "") == composing.composed(
        fields, "Hello\n", html=""
    )


@given(st.lists(st.text("ab<>@.=?,;", min_size=1, max_size=90), min_size=1, max_size=12))
@example(["a" * (78 - len("References: ")), "b"])
@example(["a" * (79 - len("References: ")), "b"])
def test_long_field_is_folded_as_the_standard_library_does(words):
    value = " ".join(words)
    folded = Compat32(linesep="\r\n").fold_binary("References", value)

    assert composing._COMPOSED.fold_binary("References", value) == folded
    assert composing._seems_encoded("References", value) or (
        composing.with_fields([("References", value)], b"\r\n") == folded + b"\r\n"
    )


@pytest.mark.parametrize("text", ["a\rb\n", "a" * 999 + "\n", "\u00fc" * 500 + "\n"])
def test_text_that_needs_encoding_is_left_to_the_standard_library(text):
    assert composing.at_once(FIELDS, text, html="") is None
    assert composing.at_once(FIELDS, text, html="<p>Hello</p>\n") is None
    assert composing.at_once(FIELDS, "Hello\n", html=text) is None


def test_alternatives_of_another_type_are_left_to_the_standard_library():
    fields = FIELDS | {"content-type": "multipart/mixed"}

    assert composing.at_once(fields, "Hello\n", html="<p>Hello</p>\n") is None


def test_no_field_is_added_by_a_value():
    with pytest.raises(HeaderParseError):
        composing.compose(FIELDS | {"Subject": "Hi\r\nBcc: you@example.com"}, "Hello\n")
