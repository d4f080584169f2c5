"""Django's mail goes to the outbox."""

from __future__ import annotations

import contextlib
import email
import email.policy
from email.message import EmailMessage as ParsedMessage

import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives, send_mail
from django.db import transaction

from mailapp.backends import OutboxBackend
from mailapp.errors import BadAddress
from mailapp.models import OUTGOING, Delivery, Message
from mailapp.routing import route, stateless

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("outbox_backend")]


def parsed(message: Message) -> ParsedMessage:
    mail = email.message_from_bytes(message.raw, policy=email.policy.default)
    assert isinstance(mail, ParsedMessage)
    return mail


def recipients() -> set[str]:
    return {each.recipient for each in Delivery.objects.filter(queue=OUTGOING)}


def test_mail_is_stored_for_the_relay():
    sent = send_mail("Grüße", "Hello.\n", "You <you@example.com>", ["Ann <ann@client.test>"])

    message = Message.objects.get()
    assert sent == 1
    assert message.sender == "you@example.com"
    assert recipients() == {"ann@client.test"}
    assert parsed(message)["Subject"] == "Grüße"
    assert parsed(message)["To"] == "Ann <ann@client.test>"
    assert message.message_id


def test_alternatives_attachments_and_headers_are_kept():
    mail = EmailMultiAlternatives(
        "Hello", "plain", "you@example.com", ["ann@client.test"], headers={"X-Mine": "yes"}
    )
    mail.attach_alternative("<p>html</p>", "text/html")
    mail.attach("notes.bin", b"\0\1", "application/octet-stream")

    mail.send()

    stored = parsed(Message.objects.get())
    assert stored["X-Mine"] == "yes"
    assert stored.get_body(["plain"]).get_content().strip() == "plain"
    assert stored.get_body(["html"]).get_content().strip() == "<p>html</p>"
    [attached] = stored.iter_attachments()
    assert (attached.get_filename(), attached.get_content()) == ("notes.bin", b"\0\1")


def test_blind_copies_are_delivered_and_not_named():
    mail = EmailMessage(
        "Hello",
        "",
        "you@example.com",
        ["a@client.test"],
        bcc=["b@client.test"],
        cc=["c@client.test"],
    )

    mail.send()

    message = Message.objects.get()
    assert recipients() == {"a@client.test", "b@client.test", "c@client.test"}
    assert b"b@client.test" not in message.raw


@pytest.mark.parametrize(
    "address", ["a:b@client.test", '"a, b"@client.test', '"<c@d>"@client.test']
)
def test_unusual_address_is_not_taken_for_another(address):
    mail = EmailMessage("Hello", "", "you@example.com", ["a@client.test"], bcc=[address])

    mail.send()

    assert recipients() == {"a@client.test", address}


@pytest.mark.parametrize(
    "fields",
    [
        {"headers": {"X\r\nBcc": "b@client.test"}},
        {"headers": {"X\r\n\r\nBody": ""}},
        {"bcc": ["b@client.test\nTo: c@client.test"]},
    ],
)
def test_header_gains_no_line_where_django_lets_one_through(fields):
    mail = EmailMessage("Hello", "", "you@example.com", ["a@client.test"], **fields)

    with pytest.raises((BadAddress, ValueError)):
        mail.send()

    assert not Message.objects.exists()


def test_mail_for_nobody_is_not_sent():
    assert EmailMessage("Hello", "", "you@example.com", []).send() == 0
    assert not Message.objects.exists()


@pytest.mark.parametrize(
    "bad", ["no address", "", "a@client.test\nBcc: b@client.test", "a@", "Ann <ann>"]
)
def test_several_mails_are_stored_all_or_none(bad):
    mails = [
        EmailMessage("Hello", "", "you@example.com", [recipient])
        for recipient in ("good@client.test", bad or "<>")
    ]

    # Python 3.12.1 stumbles over "a@" with an IndexError, when Django 6.0 composes with it.
    with pytest.raises((BadAddress, ValueError, IndexError)):
        OutboxBackend().send_messages(mails)

    assert not Message.objects.exists()


def test_several_mails_of_a_handler_are_sent_all_or_none(handle, work, message):
    mails = [
        EmailMessage("Hello", "", "you@localhost", [recipient])
        for recipient in ("good@client.test", "no address")
    ]

    @stateless
    @route("you@(host)")
    def SEND(message, host):
        with contextlib.suppress(BadAddress, ValueError):
            OutboxBackend().send_messages(mails)

    handle(SEND)
    message(recipients=["you@localhost"])

    work()

    assert recipients() == set()
    assert Delivery.objects.get().status == Delivery.Status.DONE


def test_sender_that_is_no_address_is_refused():
    with pytest.raises((BadAddress, ValueError)):
        send_mail("Hello", "", "nobody at all", ["ann@client.test"])

    assert not Message.objects.exists()


def test_mail_is_rolled_back_with_the_transaction_that_wrote_it():
    @transaction.atomic
    def send_and_fail() -> None:
        send_mail("Hello", "", "you@example.com", ["ann@client.test"])
        raise LookupError

    with pytest.raises(LookupError):
        send_and_fail()

    assert not Message.objects.exists()
