"""What we write is signed once, for whom there is a key, and never sent unsigned instead."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.mail import send_mail

from mailapp import dkim, dsn, outbox
from mailapp.errors import KeyUnusable
from mailapp.lists import Authors, ListMail
from mailapp.models import OUTGOING, Message, Status
from mailapp.relay.mailing import Mailing
from mailapp.request import MailRequest
from mailapp.routing import route
from tests.signatures import verdicts

pytestmark = pytest.mark.django_db

RSA, ED25519 = dkim.new_key(), dkim.new_key(ed25519=True)
OURS = b"From: You <you@example.com>\r\nSubject: Hello\r\n\r\nHello.\r\n"


@pytest.fixture
def sign_with(settings: Any, tmp_path: Path, outbox_backend: None) -> Callable[..., dict[str, str]]:
    """Have keys for a domain, and return the DNS: `sign_with("example.com", new=RSA)`."""

    def have(domain: str = "example.com", **keys: bytes) -> dict[str, str]:
        for selector, pem in keys.items():
            (tmp_path / selector).write_bytes(pem)
        files = {selector: str(tmp_path / selector) for selector in keys}
        settings.MAIL = {**settings.MAIL, "DKIM": {domain: files}}
        return {
            f"{selector}._domainkey.{domain}": dkim.record(dkim.read_key(pem))
            for selector, pem in keys.items()
        }

    return have


def post(raw: bytes = OURS) -> None:
    outbox.post(raw, sender="you@example.com", recipients=["reader@client.test"])


def stored() -> bytes:
    return Message.objects.get(protocol="").raw


def test_each_key_of_the_domain_signs(sign_with):
    dns = sign_with(old=RSA, new=ED25519)

    post()

    assert verdicts(stored(), dns) == [True, True]
    assert stored().endswith(OURS)


@pytest.mark.parametrize(
    "author",
    [
        "you@EXAMPLE.com",
        "<you@example.com>",
        '"other@elsewhere.test" <you@example.com>',
        "=?utf-8?q?B=C3=BCro?=\r\n <you@example.com>",
    ],
)
def test_domain_of_the_author_finds_the_key(sign_with, author):
    dns = sign_with(new=ED25519)

    post(f"From: {author}\r\n\r\nHello.\r\n".encode())

    assert verdicts(stored(), dns) == [True]


def test_domain_beyond_ascii_is_signed_for_as_its_a_label(sign_with):
    dns = sign_with("xn--bcher-kva.example", new=ED25519)

    post("From: you@bücher.example\r\n\r\nHello.\r\n".encode())

    assert verdicts(stored(), dns) == [True]


@pytest.mark.parametrize(
    "author", ["you@elsewhere.test", "you@lists.example.com", "you@example.com.test", "you", ""]
)
def test_mail_of_other_authors_stays_as_it_is(sign_with, author):
    sign_with(new=ED25519)
    raw = f"From: {author}\r\nSender: you@example.com\r\n\r\nHello.\r\n".encode()

    post(raw)

    assert stored() == raw


def test_mail_stays_as_it_is_without_keys():
    post()

    assert stored() == OURS


def test_mail_of_django_is_signed(sign_with):
    dns = sign_with(new=RSA)

    send_mail("Grüße", "Hello. \n\n.\nёж\n", "You <you@example.com>", ["reader@client.test"])

    assert verdicts(stored(), dns) == [True]


def test_report_of_a_failure_is_signed(sign_with, settings, message):
    dns = sign_with("mx.example.com", new=RSA)
    settings.MAIL = {**settings.MAIL, "HOSTNAME": "mx.example.com"}

    dsn.post_failure(message(), [("you@example.com", "550 5.1.1 User unknown")])

    assert verdicts(stored(), dns) == [True]


def test_forwarded_mail_is_not_signed_whoever_it_says_wrote_it(sign_with, delivery):
    sign_with(new=ED25519)

    MailRequest(delivery(raw=OURS)).forward("other@client.test")

    assert b"DKIM-Signature" not in stored()


@pytest.mark.parametrize(("authors", "signed"), [(Authors.NOBODY, []), (Authors.EVERYBODY, [True])])
def test_post_of_a_list_is_signed_where_the_list_is_its_author(
    sign_with, delivery, authors, signed
):
    dns = sign_with(new=ED25519)
    post = MailRequest(delivery("news@localhost", raw=OURS))

    ListMail(address="news@example.com", authors=authors).distribute(post, ["reader@client.test"])

    assert verdicts(stored(), dns) == signed


@pytest.fixture
def copy_of(delivery: Callable[..., Any], settings: Any) -> Callable[..., bytes]:
    """Have a list distribute a post, and return the copy that its one reader gets."""

    def distribute(post: bytes, authors: Authors) -> bytes:
        settings.MAIL = {**settings.MAIL, "UNSUBSCRIBE_URL": "https://example.com/leave/"}
        news = ListMail(address="news@example.com", authors=authors)
        news.distribute(MailRequest(delivery("news@localhost", raw=post)), ["reader@client.test"])
        message = Message.objects.get(protocol="")
        return Mailing(message, list(message.deliveries.all()), message.raw_message).read()

    return distribute


THEIRS = OURS.replace(b"example.com", b"client.test")


@pytest.mark.parametrize(
    ("post", "authors", "verdict"),
    [(OURS, Authors.EVERYBODY, [True, True]), (THEIRS, Authors.NOBODY, [True])],
    ids=["rewritten", "of somebody elsewhere"],
)
def test_link_to_leave_a_list_by_is_signed_in_each_copy(sign_with, copy_of, post, authors, verdict):
    dns = sign_with(new=ED25519)

    copy = copy_of(post, authors)

    assert b"List-Unsubscribe: <https://example.com/leave/" in copy
    assert verdicts(copy, dns) == verdict
    for field in (b"https://example.com/leave/", b"List-Unsubscribe=One-Click"):
        assert verdicts(copy.replace(field, field + b"x"), dns)[0] is False


@pytest.mark.parametrize(
    "author",
    [
        b"you@example.com",
        b"news@example.com",
        b"you@mail.example.com",
        b"other@client.test, you@example.com",
        b"other@client.test\r\nFrom: you@example.com",
        b"nobody",
        b"other@client.test (unclosed",
        b"other@client.test\r\nFrom : you@example.com",
        b"other@client.test\r\n From: you@example.com",
        b"other@client.test\r\nX-Name: x\r\n From: you@example.com",
        b"other@client.test\r\nFrom\r\n : you@example.com",
        b"other@client.test\r\nno field\r\nFrom: you@example.com",
        b"other@client.test\rFrom: you@example.com",
    ],
)
def test_list_does_not_sign_for_an_author_whom_anybody_could_have_named(sign_with, copy_of, author):
    sign_with(new=ED25519)

    copy = copy_of(OURS.replace(b"You <you@example.com>", author), Authors.NOBODY)

    assert b"DKIM-Signature" not in copy


def test_list_signs_what_has_a_folded_signature_of_its_author(sign_with, copy_of):
    sign_with(new=ED25519)

    copy = copy_of(b"DKIM-Signature: v=1; h=To:\r\n From:Subject\r\n" + THEIRS, Authors.NOBODY)

    assert copy.count(b"DKIM-Signature") == 2


def test_copy_is_not_signed_without_a_key_of_the_list(sign_with, copy_of):
    sign_with("client.test", new=ED25519)

    assert b"DKIM-Signature" not in copy_of(THEIRS, Authors.NOBODY)


@pytest.fixture
def answer(handle: Callable[..., None], templates: Callable[..., None]) -> None:
    """Answer all mail."""
    templates(**{"mail/hello.msg": "{% block text %}Hello you.{% endblock %}"})

    @route("(anything)@(host)", anything=".+")
    def START(message, anything, host):
        message.respond("mail/hello.msg", author="you@example.com")

    handle(START)


@pytest.mark.django_db(transaction=True)
def test_answer_of_a_handler_is_signed(sign_with, answer, delivery, work):
    dns = sign_with(new=ED25519)
    delivery("news@localhost")

    work()

    assert verdicts(stored(), dns) == [True]


@pytest.mark.django_db(transaction=True)
def test_handler_is_tried_again_when_the_key_cannot_be_read(
    sign_with, answer, delivery, work, tmp_path
):
    dns = sign_with(new=ED25519)
    (tmp_path / "new").unlink()
    tried = delivery("news@localhost")

    work()

    tried.refresh_from_db()
    assert tried.status == Status.DEFERRED
    assert "A DKIM key cannot be used" in tried.reply
    assert not Message.objects.filter(protocol="").exists()
    (tmp_path / "new").write_bytes(ED25519)
    type(tried).objects.try_now()
    work()
    assert verdicts(stored(), dns) == [True]


@pytest.mark.parametrize("content", [b"", b"no key", RSA[:500]])
def test_nothing_is_posted_with_a_broken_key(sign_with, tmp_path, content):
    sign_with(new=ED25519)
    (tmp_path / "new").write_bytes(content)

    with pytest.raises(KeyUnusable, match="new"):
        post()

    assert not Message.objects.exists()


def test_key_that_is_replaced_is_used_without_a_restart(sign_with, tmp_path):
    sign_with(new=ED25519)
    post()
    Message.objects.all().delete()

    dns = sign_with(new=dkim.new_key(ed25519=True))
    os.utime(tmp_path / "new", ns=(0, 0))  # as if it were not the same instant
    post()

    assert verdicts(stored(), dns) == [True]


def test_one_signed_message_is_stored_for_many(sign_with):
    dns = sign_with(new=ED25519)

    outbox.post(OURS, sender="", recipients=[f"r{number}@client.test" for number in range(3)])

    assert verdicts(stored(), dns) == [True]
    assert Message.objects.get().deliveries.filter(queue=OUTGOING).count() == 3
