"""Bytes to mail, on what strangers send."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from email.message import EmailMessage
from email.parser import BytesHeaderParser
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailapp import mime
from tests.corpus import FOLDER, messages, needs_corpus
from tests.project import ROOT
from tests.views import read_all
from tests.waiting import DEADLINE

# Whatever it is


@needs_corpus
@pytest.mark.parametrize("path", messages(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_mail_of_the_corpus_can_be_read(path):
    raw = path.read_bytes()

    for mail in (raw, raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")):
        read_all(mail)


FIELDS = st.sampled_from(
    [
        *[b"From: reader@client.test", b"Subject:", b"content-type: text/plain; x=" + b"y" * 3000],
        *[
            b"X-Long: a",
            b" folded",
            b"\tfolded",
            b" ",
            b"\xff: \xe9",
            b"X:\x0b\x1c\x85",
            b":",
            b"no colon",
        ],
        *[b"From somebody", b"a b: c", b"", b"\0: \0", b"X: \r", b"X\r: y"],
    ]
)


@given(st.lists(st.tuples(FIELDS, st.sampled_from([b"\r\n", b"\n", b"\r"])), max_size=8))
def test_head_is_parsed_as_the_standard_library_parses_it(lines):
    raw = b"".join(line + end for line, end in lines)

    parsed = mime.parse_head(raw)

    known = BytesHeaderParser(policy=mime._LENIENT).parsebytes(mime.head(raw) + b"\r\n\r\n")
    assert list(parsed.raw_items()) == list(known.raw_items())
    assert parsed.get_payload() == known.get_payload()
    assert list(map(type, parsed.defects)) == list(map(type, known.defects))
    assert parsed.get_unixfrom() == known.get_unixfrom()


LINES = st.sampled_from(
    [
        *[
            b"",
            b" folded",
            b"\tfolded",
            b"From:",
            b"Subject: =?utf-8?b?abc?=",
            b"a",
            b"--b",
            b"--b--",
        ],
        *[b"Content-Type: text/plain; charset=", b'Content-Type: text/html; charset="utf-16"'],
        *[b"Content-Type: text/plain; charset=idna", b"Content-Type: text/plain; charset*=a''b"],
        *[b"Content-Type: multipart/mixed; boundary=b", b"Content-Type: message/rfc822"],
        *[
            b"Content-Type: multipart/report; report-type=",
            b"Content-Type: message/delivery-status",
        ],
        *[b"Content-Transfer-Encoding: base64", b"Content-Transfer-Encoding: quoted-printable"],
        *[
            b"Content-Transfer-Encoding: uuencode",
            b"begin 644 x",
            b"=C3",
            b"\xff\xfe",
            b"\0",
            b"\r",
        ],
        *[b"Content-Disposition: attachment; filename*0*=utf-16''%ff; filename*1=\xff"],
    ]
)


@given(st.lists(st.one_of(LINES, st.binary(max_size=20))))
def test_any_bytes_can_be_read(lines):
    read_all(b"\r\n".join(lines))


@pytest.mark.parametrize(
    "hostile",
    [
        b"".join(
            b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n)
            for n in range(1000)
        ),
        b"".join(
            b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n)
            for n in range(150)
        )
        + b"a\r\n" * 1_000_000,
        b"Content-Type: message/rfc822\r\n\r\n" * 5000,
        b"Content-Type: message/delivery-status\r\n\r\n" + b"A:b\n\n" * 900_000,
        b"Content-Type: message/delivery-status\r\n\r\n" * 400_000,
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 15_000,
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 100_000,
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\n\nx\n" * 1_000_000,
        b"A: b\r\n\r\n" + b"a\r" * 10_000_000,
        b"Content-Type: text/plain" + b";" * 20_000 + b"\r\n\r\nx",
        b"Content-Type: multipart/mixed" + b";" * 5_000_000 + b"\r\n\r\nx",
        b'Content-Type: multipart/mixed; a="' + b";" * 5_000_000 + b"\r\n\r\nx",
        b"Content-Disposition: attachment" + b"; filename*0*=a" * 100_000 + b"\r\n\r\nx",
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
        + b"--b\r\nContent-Type: a/b; boundary=" * 2
        + b"--b\r\nContent-Type: multipart/a"
        + b" (" * 1000
        + b"; boundary=c )\r\n\r\n" * 9000,
        b"A" + b" " * 30_000 + b"\r\nA " * 10_000 + b": b\r\n\r\nx",
        b"Content-Type: text/plain\r\n" + b" ;\r\n" * 1_000_000 + b"\r\nx",
        b"To: " + b"," * 100_000 + b"\r\nFrom: " + b"," * 100_000 + b"\r\n\r\nx",
        b"From: " + b"(" * 100_000 + b"\r\n\r\nx",
        b"From: " + b'"a" <' * 100_000 + b"\r\n\r\nx",
        b"From: " + b"\v" * 500_000 + b"\r\n\r\nx",
        b'From: =?utf-8?q?a?= "' + b'\\"' * 500_000 + b"\r\n\r\nx",
        b"From: " + b'"=?utf-8?q?a' * 100_000 + b"\r\n\r\nx",
        b"From: " + b"a " * 500_000 + b"\r\n\r\nx",
        b"Subject: " + b"=?utf-8?q?a?= " * 20_000 + b"\r\n\r\nx",
        b"Subject: " + b"=?" * 1_000_000 + b"\r\n\r\nx",
        b"Subject: " + b"=?a?q?" * 300_000 + b"\r\n\r\nx",
        b"Subject: =?utf-8?b?" + b"YQ" * 1_000_000 + b"?=\r\n\r\nx",
        b"Subject: " + b" " * 1_000_000 + b"=?x" + b"\r\n\r\nx",
        b"Subject: " + b"".join(b"=?x%d?q?a?=" % n for n in range(20_000)) + b"\r\n\r\nx",
        b"Subject: =?punycode?q?" + b"a" * 500_000 + b"-" + b"b" * 500_000 + b"?=\r\n\r\nx",
        b"Subject: a" + b"\r\n a" * 1_000_000 + b"\r\n\r\nx",
        b"".join(b"X-%d: a\r\n" % n for n in range(50_000)) + b"\r\nx",
        b"Content-Type: text/plain; charset=punycode\r\n\r\n" + b"a-" * 500_000,
        b"Content-Type: text/plain; charset=idna\r\n\r\n" + b"a" * 1_000_000,
        b"A: b\r\n\r\n" + b"a:\r\n" * 500_000,
        b"A: b\r\n\r\n" + b"From: a\r\nb\r\n" * 100_000,
        b"A: b\r\n\r\n" + b"> a\r\nb\r\n" * 100_000,
        b"A: b\r\n\r\nOp " + b" heeft" * 500_000,
        b"A: b\r\n\r\n" + b"On a\r\n" * 500_000,
        b"A: b\r\n\r\n" + b"1:00 <a@" * 100_000 + b"\r\n> a\r\n> b\r\n> c\r\n",
        b"A: b\r\n\r\n" + b"-- \r\n" * 500_000,
        b"A: b\r\n\r\n" + b"ab\r\n" * 6_000_000,
        b"Content-Type: text/html\r\n\r\n" + b"<a" * 10_000_000,
        b"Content-Type: text/html\r\n\r\n" + b"<p>a</p>" * 3_000_000,
        b"Content-Type: text/html\r\n\r\n" + b"<blockquote>" * 2_000_000,
        b"Content-Type: text/html\r\n\r\n" + b"<blockquote>" * 200_000 + b"a<br>" * 200_000,
        b"Content-Type: text/html\r\n\r\n<div " + b"class='a" * 3_000_000,
        b"Content-Type: text/html\r\n\r\n" + b"<div class " * 2_000_000,
        b"Content-Type: text/html\r\n\r\n" + b"<!--" * 6_000_000,
        b"Content-Type: text/html\r\n\r\n" + b"&#9" * 6_000_000,
        b"Content-Type: text/html\r\n\r\n<pre>" + b"a\r\n" * 6_000_000,
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: message/rfc822"
        b"\r\n\r\nTo: " + b"a@b, " * 100_000 + b"\r\n\r\nx\r\n--b--\r\n",
    ],
    ids=lambda hostile: f"{hostile[:30]!r}+{len(hostile)}",
)
def test_hostile_mail_takes_bounded_time_and_memory(hostile, tmp_path):
    (tmp_path / "mail.eml").write_bytes(hostile)
    program = "import sys; from tests.views import read_all; read_all(sys.stdin.buffer.read())"

    with (tmp_path / "mail.eml").open("rb") as mail:
        subprocess.run(
            [sys.executable, "-c", program],
            stdin=mail,
            cwd=ROOT,
            timeout=DEADLINE,
            check=True,
            preexec_fn=_limit_memory,
        )


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (512 << 20, 512 << 20))


# Header fields


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b"Hello", "Hello"),
        (b"=?utf-8?q?Gr=C3=BC=C3=9Fe?=", "Grüße"),
        (b"=?UTF-8?B?R3LDvMOfZQ==?=", "Grüße"),
        (b"=?iso-8859-1*de?Q?Gr=FC=DFe_an?= dich", "Grüße an dich"),
        (b"An: =?utf-8?q?a?= =?utf-8?q?b?= c", "An: ab c"),
        (b"=?utf-8?q?a?=\r\n =?utf-8?q?b?=", "ab"),
        (b"=?utf-8?b?w?= =?utf-8?b?7w=?=", "ï"),  # a character in two words
        (b"=?utf-8?q?=C3?= =?utf-8?q?=BC?=", "ü"),
        (b"=?utf-8?q?=C3?= =?iso-8859-1?q?=FC?=", "Ãü"),
        (b"=?utf-8?b?abc?=", "i·"),  # its padding is gone
        (b"=?utf-8?b?a?=", ""),
        (b"=?UTF-8?b?w?= =?utf-8?b?7w=?=", "ï"),
        ("=?utf-8?q?Grü=C3=9Fe?=".encode(), "Grüße"),
        ("=?iso-8859-1?q?Grü=DFe?=".encode("latin-1"), "Grüße"),
        ("=?koi8-r?q?Ò=C9?=".encode("latin-1"), "ри"),
        (b"=?utf-8?b?SGV!sbG8=?=", "Hello"),
        (b"=?nonsense?q?Gr=C3=BC=C3=9Fe?=", "Grüße"),
        (b"=?utf-8?q?Gr=FC=DFe?=", "Grüße"),  # it is Latin-1
        (b"=?utf-8?x?Hello?=", "=?utf-8?x?Hello?="),
        (b"=?utf-8?q?unfinished", "=?utf-8?q?unfinished"),
        ("Grüße".encode(), "Grüße"),
        ("Grüße".encode("latin-1"), "Grüße"),
        (b"=?utf-8?q?a=0D=0ABcc:_x=40y?=", "a Bcc: x@y"),
        (b"=?utf-8?q?a=00b=E2=80=A8c=7F?=", "a b c"),
        (b"=?utf-7?q?+2AA-?=", "+2AA-"),  # half of a surrogate pair
        (b"folded\r\n\tfield", "folded field"),
        (b"   spaced \t out ", "spaced out"),
    ],
)
def test_value_of_a_field_is_one_line_of_text(written, read):
    raw = b"Subject: " + written + b"\r\n\r\n"

    assert mime.header(mime.parse(raw), "subject") == read
    assert mime.head_columns(raw).subject == read


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("=?utf-8?q?J=C3=B6rg?= <j@x.test>", "Jörg <j@x.test>"),
        ("=?utf-8?q?=3Cboss=40x.test=3E?= <a@y.test>", '"<boss@x.test>" <a@y.test>'),
        ("=?utf-8?q?boss=40x.test,?=\r\n <a@y.test>", '"boss@x.test," <a@y.test>'),
        ("=?utf-8?q?A_=22B=22_=5C?= C <a@y.test>", r'"A \"B\" \\" C <a@y.test>'),
        ('"=?utf-8?q?=22_=3Ca=40x.test=3E?=" <a@y.test>', r'"\" <a@x.test>" <a@y.test>'),
        (r'"\"" =?utf-8?q?a=2C?= <a@y.test>', r'"\"" "a," <a@y.test>'),
        ('\\"=?utf-8?q?a?= <a@y.test>', '\\"a <a@y.test>'),
    ],
)
def test_name_that_was_encoded_is_not_taken_for_an_address(written, read):
    raw = f"From: {written}\r\nSubject: =?utf-8?q?a=40b?=\r\n\r\n".encode()

    assert mime.headers(mime.parse_head(raw)) == [("From", read), ("Subject", "a@b")]
    assert mime.header(mime.parse(raw.replace(b"From", b"cc")), "Cc") == read
    assert mime.head_columns(raw).author == read


def test_long_field_is_whole_in_the_mail_and_cut_in_the_columns():
    raw = b"Subject: " + b"word " * 2000 + b"\r\nMessage-ID: <" + b"a" * 300 + b">\r\n\r\n"

    assert len(mime.header(mime.parse(raw), "Subject")) == 9999
    assert len(mime.head_columns(raw).subject) == 255
    assert len(mime.head_columns(raw).message_id) == 255


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_columns_are_of_the_first_fields_in_the_head_alone(end):
    raw = end.join(
        [
            b"X-Subject: No",
            b"FROM: One <one@client.test>",
            b"subject : two",
            b"Subject: Three",
            b" and four",
            b"Subject: Five",
            b"",
            b"Message-ID: <six@client.test>",
        ]
    )

    assert mime.head_columns(raw) == ("two", "One <one@client.test>", "")
    assert mime.head_columns(raw.replace(b"subject : two", b"To: two")).subject == "Three and four"


def test_space_before_a_colon_does_not_end_the_head():
    raw = b"From : a@client.test\r\nSubject\t : Hello\r\n there\r\nTo: you\r\n\r\nX : y\r\n"

    for parsed in (mime.parse(raw), mime.parse_head(raw)):
        assert mime.headers(parsed) == [
            ("From", "a@client.test"),
            ("Subject", "Hello there"),
            ("To", "you"),
        ]
    assert mime.text_of(mime.parse(raw)) == "X : y\n"


@pytest.mark.parametrize(
    ("raw", "head"),
    [
        (b"A: b\r\nC: d\r\n\r\nbody\n\nmore", b"A: b\r\nC: d"),
        (b"A: b\nC: d\n\nbody\r\n\r\nmore", b"A: b\nC: d"),
        (b"A: b\n\r\nbody\n\n", b"A: b"),
        (b"\r\nbody\r\n\r\nmore", b""),
        (b"A: b\r\n", b"A: b\r\n"),
        (b"", b""),
    ],
)
def test_head_ends_at_the_first_empty_line(raw, head):
    assert mime.head(raw) == head


@pytest.mark.parametrize("limit", [3, 4, 8])
def test_head_ends_at_the_first_of_all_kinds_of_empty_lines(limit):
    for octets in product(b"\r\na", repeat=7):
        raw = b"a" + bytes(octets)
        end = re.search(rb"\r\n\r\n|\n\n|\n\r\n", raw[:limit])

        assert mime.head(raw, limit) == raw[: end.start() if end else limit]


def test_ids_that_are_malformed_are_left_out():
    field = "<a@client.test> junk <b c@d> <\u00fc@x> <b@client.test>\r\n\t<" + "x" * 300 + "> <>"
    field += " <=?utf-8?q?=0D=0ABcc:_x?=@client.test>"

    assert mime.message_ids(field) == ["<a@client.test>", "<b@client.test>"]


# Bodies


@pytest.mark.parametrize(
    ("charset", "octets", "text"),
    [
        ("utf-8", "Grüße".encode(), "Grüße"),
        ("utf-8", "Grüße".encode("latin-1"), "Grüße"),
        ("us-ascii", "Grüße".encode(), "Grüße"),
        ("iso-8859-1", "“so”".encode("cp1252"), "“so”"),
        ("gb2312", "镕".encode("gbk"), "镕"),
        ("utf-8 (as told)", "Grüße".encode(), "Grüße"),
        ("utf-8", b"\xef\xbb\xbfHello", "Hello"),
        ("utf-8", "für Grüße\xa0".encode() + b"\xfc", "für Grüße\xa0\ufffd"),
        ("us-ascii", "Grüße aus Köln".encode() + b"\xc3", "Grüße aus Köln\ufffd"),
        ("no-such-charset", "Grüße".encode("latin-1"), "Grüße"),
        ("unicode_escape", b"\\u0041", "\\u0041"),
        ("hex", b"41", "41"),
        ("", b"a\x81b\0c", "a\ufffdb\ufffdc"),
    ],
)
def test_body_is_decoded_with_the_charset_that_is_meant(charset, octets, text):
    raw = f"Content-Type: text/plain; charset={charset}\r\n\r\n".encode() + octets

    assert mime.text_of(mime.parse(raw)) == text


@pytest.mark.parametrize(
    "charset", ["charset=idna", 'charset="utf\0 8"', "charset*=utf-8''utf-8", "charset=undefined"]
)
def test_mail_can_be_read_whatever_charset_its_octets_are_said_to_have(charset):
    raw = f"Content-Type: text/plain; {charset}\r\n\r\nGrüße".encode()

    assert mime.text_of(mime.parse(raw)) == "Grüße"


def test_text_parts_and_attachments_are_told_apart():
    mail = EmailMessage()
    mail.set_content("plain\r\n")
    mail.add_alternative("<p>html</p>", subtype="html")
    mail.add_attachment("notes", filename="Notizen für dich.txt")
    mail.add_attachment(b"\x89PNG", maintype="image", subtype="png")
    inner = EmailMessage()
    inner["Subject"] = "Inner"
    inner.set_content("inner text")
    mail.add_attachment(inner)

    parsed = mime.parse(mail.as_bytes())

    assert mime.text_of(parsed) == "plain\n"
    assert mime.text_of(parsed, "html") == "<p>html</p>\n"
    notes, image, forwarded = mime.attachments(parsed)
    assert (notes.filename, notes.content) == ("Notizen für dich.txt", b"notes\n")
    assert (image.content_type, image.content) == ("image/png", b"\x89PNG")
    assert forwarded.content_type == "message/rfc822"
    assert b"Subject: Inner\n" in forwarded.content


def test_body_is_the_text_of_html_where_there_is_no_plain_one():
    mail = EmailMessage()
    mail.set_content(" \r\n")
    mail.add_alternative("<p>html</p>", subtype="html")

    assert mime.body_of(mime.parse(mail.as_bytes())) == "html\n"


@pytest.mark.parametrize("html", ["", "<img src='cid:1'>"])
def test_body_is_the_plain_text_as_it_is_where_html_says_nothing(html):
    mail = EmailMessage()
    mail.set_content(" \n")
    mail.add_alternative(html, subtype="html")

    assert mime.body_of(mime.parse(mail.as_bytes())) == " \n"


ONLY_HTML = [
    ("enmime/mail/non-mime-html-charset-header-only.raw", "Test Müller"),
    ("enmime/parts/multimixed-no-closing-boundary.raw", "Hello,"),
    ("stalwart-mail-parser/eml/thirdparty/016.eml", "Search for höhö"),
    ("stalwart-mail-parser/eml/legacy/002.eml", "Die Hasen und die Frösche\n\nDie Hasen klagten"),
    ("mikel-mail/error_emails/content_transfer_encoding_text-html.eml", "Hello,\n\nYou have "),
    ("mikel-mail/error_emails/content_transfer_encoding_with_8bits.eml", "December 04, 2001\n\n"),
]


@needs_corpus
@pytest.mark.parametrize(("name", "begin"), ONLY_HTML)
def test_mail_of_the_corpus_that_has_html_alone_is_read_as_text(name, begin):
    parsed = mime.parse((FOLDER / name).read_bytes())

    assert mime.text_of(parsed).strip() == ""
    assert mime.reply_text(mime.body_of(parsed)).startswith(begin)
    assert "<" not in mime.body_of(parsed)


@pytest.mark.parametrize(
    ("written", "content_type"),
    [
        (b"text/html (as told); charset=utf-8", "text/html"),
        (b"(new) TEXT / (plain) html", "text/html"),
        (b'"text/html"', "text/html"),
        (b"text/html charset=utf-8", "text/html"),
        (b"text/html ", "text/html"),
        (b"text/bb/cc", "text/plain"),
        (b"html", "text/plain"),
        (b"((((", "text/plain"),
    ],
)
def test_type_is_read_whatever_is_added_to_it(written, content_type):
    parsed = mime.parse(b"Content-Type: " + written + b"\r\n\r\n")

    assert parsed.get_content_type() == content_type


@pytest.mark.parametrize(
    ("written", "boundary"),
    [
        (b"b (c)", b"b"),
        (b'"b (1)" (c)', b"b (1)"),
        (b'"b (1)"', b"b (1)"),
        (b"b(1)", b"b(1)"),
    ],
)
def test_boundary_is_read_without_a_comment_behind_it(written, boundary):
    raw = b"Content-Type: multipart/mixed; boundary=%b\r\n\r\n--%b\r\n\r\nx\r\n--%b--\r\n"

    assert mime.text_of(mime.parse(raw % (written, boundary, boundary))) == "x"


@pytest.mark.parametrize(
    "written", [b"base64 (x)", b"(x) Base64", b'"base64"', b"base64;", b"base64 "]
)
def test_transfer_encoding_is_read_whatever_is_added_to_it(written):
    raw = b"Content-Transfer-Encoding: " + written + b"\r\n\r\nSGVsbG8="
    parsed = mime.parse(raw)

    assert mime.text_of(parsed) == "Hello"
    assert mime.parts_of(parsed) == []
    assert parsed.as_bytes().replace(b"\n", b"\r\n") == raw


@pytest.mark.parametrize(
    ("field", "filename"),
    [
        ('Content-Disposition: attachment; filename="Grüße.txt"'.encode(), "Grüße.txt"),
        ('Content-Type: text/plain; name="Grüße.txt"'.encode("latin-1"), "Grüße.txt"),
        (b'Content-Type: text/plain; name="=?utf-8?q?Gr=C3=BC=C3=9Fe?="', "Grüße"),
        (b"Content-Disposition: attachment; filename*=idna''Gr%C3%BC%C3%9Fe", "Grüße"),
        (b"Content-Disposition: attachment; filename*0*=utf-8''a%C3; filename*1*=%BC", "aü"),
    ],
)
def test_name_of_a_file_is_read_however_it_is_encoded(field, filename):
    assert mime.filename_of(mime.parse(field + b"\r\n\r\n")) == filename


def test_mail_that_is_nested_too_deep_is_one_part():
    raw = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n)
        for n in range(2000)
    )

    [part] = mime.attachments(mime.parse(raw))

    assert part.content_type == "multipart/mixed"
    assert part.content.startswith(b"--b0\r\n")


# What is shown


@pytest.mark.parametrize(
    "char", [*"\x1b\xad\u034f\u115f\u1160\u17b4\u17b5\u180e\u202e\u2800\u3164\uffa0", "\U0001d173"]
)
def test_what_hides_text_is_written_out(char):
    assert mime.visible(f"bo{char}ss") == f"bo[U+{ord(char):04X}]ss"


@pytest.mark.parametrize("text", ["می\u200cخواهم", "\U0001f469\u200d\U0001f4bb", "a\tb\n", "Grüße"])
def test_what_is_text_stays(text):
    assert mime.visible(text) == text


# Replies


@pytest.mark.parametrize(
    ("text", "new"),
    [
        ("New\n\nOn Mon, A wrote:\n> old\n> older\n", "New"),
        ("New\nmore\n\n-----Original Message-----\nFrom: a\nTo: b\n\nold", "New\nmore"),
        ("On Mon, A wrote:\n> old\n> older\n> oldest\n\nNew", "New"),
        ("\n\nNew\n-- \nThe author", "New"),
        ("Hei\n\nma 1. tammik. 2024 klo 10.00 A <a@x.test> kirjoitti:\n> a\n> b\n> c", "Hei"),
        ("Да\nвт, 1 янв. 2024 г., 10:00 A <a@x.test>:\n\n> a\n> b\n> c", "Да"),
        ("Sim\n\nEm seg, 1 de jan, 10:00,\nA B <a@x.test>\nescreveu:\n> a\n> b\n> c", "Sim"),
        ("是\n\nA <a@x.test> 写道：\n> a\n> b\n> c", "是"),
        ("Here is what I want:\n> a\n> b\n> c", "Here is what I want:"),
        ("Write to a@x.test about this:\n> a\n> b\n> c", "Write to a@x.test about this:"),
        ("At 10:00 I read this:\n> a\n> b\n> c", "At 10:00 I read this:"),
        ("Nothing is quoted here.\n", "Nothing is quoted here."),
        ("x" * 2000 + "\n\nOn Mon, A wrote:\n> old\n> older\n", "x" * 2000),
        ("line\n" * 2000, ("line\n" * 2000).strip()),
        ("", ""),
    ],
)
def test_reply_is_what_was_written_anew(text, new):
    assert mime.reply_text(text) == new


@given(st.text(alphabet="ab:\n> -\r", max_size=200))
def test_reply_is_part_of_the_text(text):
    assert mime.reply_text(text) in text


@pytest.mark.parametrize(
    ("content_type", "report"),
    [
        (b"multipart/report; boundary=b; report-type=delivery-status", True),
        (b'Multipart/Report; boundary=b; Report-Type="delivery-status"', True),
        (b"multipart/report; boundary=b", True),
        (b"multipart/report; boundary=b; report-type=feedback-report", False),
        (b"multipart/mixed; boundary=b; report-type=delivery-status", False),
        (b"text/plain", False),
    ],
)
def test_report_of_a_delivery_is_known(content_type, report):
    raw = b"Content-Type: " + content_type + b"\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n"

    assert mime.is_report(mime.parse(raw)) is report
    assert mime.may_be_report(raw) >= report
