"""What a list puts into the posts that it passes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mailapp import mime, people
from mailapp.lists import Authors, ListMail, ReplyTo
from mailapp.models import OUTGOING, Delivery
from mailapp.request import MailRequest

POST = b"""\
From: =?utf-8?q?Zo=C3=AB_Lee?= <zoe@mail.client.test>\r
Reply-To: home@client.test\r
Subject: Post\r
\r
From: within the body\r
"""
NEWS = {"address": "news@localhost", "title": "The News"}


@pytest.fixture
def distributed(delivery: Callable[..., Delivery]) -> Callable[..., bytes]:
    """Send a post through a list to one reader and return what they get."""

    def send(raw: bytes = POST, **options: str) -> bytes:
        post = MailRequest(delivery("news@localhost", raw=raw))
        ListMail(**NEWS | options).distribute(post, ["reader@client.test"])
        sent = Delivery.objects.filter(queue=OUTGOING).latest("id")
        return sent.as_sent(sent.message.raw)

    return send


def fields(raw: bytes, name: str) -> list[str]:
    return [value for field, value in mime.headers(mime.parse_head(raw)) if field == name]


def test_post_says_what_list_it_is_of(distributed):
    raw = distributed(
        help="news-help@localhost",
        subscribe="news-subscribe@localhost",
        unsubscribe="news-unsubscribe@localhost",
        owner="postmaster@localhost",
        archive="https://example.com/news/",
    )

    assert fields(raw, "List-Id") == ["<news.localhost>"]
    assert fields(raw, "List-Post") == ["<mailto:news@localhost>"]
    assert fields(raw, "List-Help") == ["<mailto:news-help@localhost>"]
    assert fields(raw, "List-Subscribe") == ["<mailto:news-subscribe@localhost>"]
    assert fields(raw, "List-Unsubscribe") == ["<mailto:news-unsubscribe@localhost>"]
    assert fields(raw, "List-Owner") == ["<mailto:postmaster@localhost>"]
    assert fields(raw, "List-Archive") == ["<https://example.com/news/>"]
    assert fields(raw, "List-Unsubscribe-Post") == []


def test_bytes_of_a_post_stay_where_nothing_has_to_be_replaced(distributed):
    assert distributed().endswith(POST)


@pytest.mark.parametrize(
    "field",
    [
        b"List-Unsubscribe: <https://elsewhere.test/leave>",
        b"list-unsubscribe-post:List-Unsubscribe=One-Click",
        b"List-ID: <other.elsewhere.test>",
        b"List-Archive:\r\n <https://elsewhere.test/>",
    ],
)
def test_post_cannot_say_how_the_list_is_left(distributed, field):
    raw = distributed(field + b"\r\n" + POST)

    assert b"elsewhere.test" not in raw
    assert b"One-Click" not in raw
    assert raw.endswith(POST)


def test_field_of_a_post_is_replaced_however_long_its_header_is(distributed):
    raw = distributed(b"X-Long: " + b"a" * 70_000 + b"\r\n" + POST, authors=Authors.EVERYBODY)

    assert len(people.authors(mime.parse(raw))) == 1


@pytest.mark.parametrize(
    ("address", "list_id", "link"),
    [
        ("r&d@localhost", "<r&d.localhost>", "<mailto:r%26d@localhost>"),
        ('"a b"@localhost', "<%22a%20b%22.localhost>", "<mailto:%22a%20b%22@localhost>"),
        ("grüße@localhost", "<gr%C3%BC%C3%9Fe.localhost>", "<mailto:gr%C3%BC%C3%9Fe@localhost>"),
    ],
)
def test_list_at_an_unusual_address_is_named_in_ascii(distributed, address, list_id, link):
    raw = distributed(address=address, authors=Authors.EVERYBODY)

    assert raw.isascii()
    assert fields(raw, "List-Id") == [list_id]
    assert fields(raw, "List-Post") == [link]


def test_place_that_a_list_does_not_have_is_not_named(distributed):
    raw = distributed()

    for name in ["List-Help", "List-Subscribe", "List-Unsubscribe", "List-Owner", "List-Archive"]:
        assert fields(raw, name) == []


def test_answers_may_go_to_the_list(distributed):
    raw = distributed(reply_to=ReplyTo.LIST)

    assert fields(raw, "Reply-To") == ["news@localhost"]
    assert fields(raw, "From") == ["Zoë Lee <zoe@mail.client.test>"]


def test_author_is_rewritten_and_answers_still_reach_them(distributed):
    raw = distributed(authors=Authors.EVERYBODY)

    assert fields(raw, "From") == ["Zoë Lee via The News <news@localhost>"]
    assert fields(raw, "Reply-To") == ["home@client.test"]
    assert raw.endswith(b"\r\n\r\nFrom: within the body\r\n")


def test_author_without_a_name_or_reply_to_is_rewritten(distributed):
    raw = distributed(b"From: zoe@client.test\r\n\r\n", authors=Authors.EVERYBODY)

    assert fields(raw, "From") == ['"zoe via The News" <news@localhost>']
    assert fields(raw, "Reply-To") == ["zoe@client.test"]


def test_post_that_does_not_say_who_wrote_it_is_rewritten(distributed):
    raw = distributed(b"Subject: Post\r\n\r\n", authors=Authors.EVERYBODY)

    assert fields(raw, "From") == ['"Somebody via The News" <news@localhost>']
    assert fields(raw, "Reply-To") == []


@pytest.mark.parametrize(
    ("domains", "rewritten"),
    [(["client.test"], True), (["mail.client.test"], True), (["ent.test"], False), ([], False)],
)
def test_author_is_rewritten_where_the_domain_is_protected(
    distributed, settings, domains, rewritten
):
    settings.MAIL = {**settings.MAIL, "DMARC_DOMAINS": domains}

    raw = distributed(authors=Authors.PROTECTED)

    assert fields(raw, "From")[0].endswith("<news@localhost>") == rewritten


@pytest.mark.parametrize(
    "author",
    ["zoe@bücher.example", "ann@client.test, zoe@bücher.example", "Us: zoe@XN--BCHER-KVA.example;"],
)
def test_author_at_a_protected_domain_is_found_however_named(distributed, settings, author):
    settings.MAIL = {**settings.MAIL, "DMARC_DOMAINS": ["xn--bcher-kva.example"]}

    raw = distributed(f"From: {author}\r\n\r\n".encode(), authors=Authors.PROTECTED)

    assert fields(raw, "From")[0].endswith("<news@localhost>")
    assert author.removeprefix("Us: ").startswith(fields(raw, "Reply-To")[0].partition("@")[0])


@pytest.mark.parametrize(
    "author",
    ["zoe", "<@x.test:zoe@elsewhere.test>", "zoe@elsewhere.test, zoe", "zoe@-"],
)
def test_author_who_may_be_anybody_is_rewritten(distributed, author):
    raw = distributed(f"From: {author}\r\n\r\n".encode(), authors=Authors.PROTECTED)

    assert people.authors(mime.parse_head(raw)) == ["news@localhost"]


def test_post_of_several_authors_bears_the_name_of_the_first(distributed):
    raw = distributed(
        b"From: Zoe <zoe@client.test>, a@client.test\r\n\r\n", authors=Authors.EVERYBODY
    )

    assert fields(raw, "From") == ['"Zoe via The News" <news@localhost>']
    assert fields(raw, "Reply-To") == ["zoe@client.test, a@client.test"]


def test_author_who_hides_behind_a_long_header_is_rewritten(distributed):
    raw = distributed(b"X-Long: " + b"a" * 70_000 + b"\r\n" + POST, authors=Authors.PROTECTED)

    assert people.authors(mime.parse(raw)) == ["news@localhost"]


def test_name_of_an_author_adds_no_field(distributed):
    raw = distributed(
        b"From: =?utf-8?q?Zo=0D=0ABcc=3A_x=40client=2Etest?= <zoe@client.test>\r\n\r\n",
        authors=Authors.EVERYBODY,
    )

    assert fields(raw, "Bcc") == []
    assert len(fields(raw, "From")) == 1
