"""What a state function is given, and how it answers."""

from __future__ import annotations

import contextlib
import email
import email.policy
import re
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any

import pytest
from django.template import TemplateDoesNotExist
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mailapp import mime, outbox, people
from mailapp.addresses import take_path
from mailapp.errors import BadAddress
from mailapp.models import Delivery, Message
from mailapp.request import MailRequest
from tests import hostile

pytestmark = pytest.mark.django_db

TEMPLATE = """{% block subject %}{{ subject }}{% endblock %}
{% block text %}{{ text }}{% endblock %}"""

HOSTILE_TEXTS = [
    "Hi\r\nBcc: victim@client.test",
    "Hi\nBcc: victim@client.test\n\nbody",
    "Hi\rBcc: victim@client.test",
    "Hi\x0bBcc: a\x0cBcc: b\x1cBcc: c\x85Bcc: d\u2028Bcc: e",
    "=?utf-8?q?Hi=0D=0ABcc:_victim=40client.test?=",
    "\0\x01\x7f",
    '"Büro "A", Inc" \\" <x@y> (comment',
    "a" * 2000,
    "\N{GRINNING FACE}" * 500,
]


@pytest.fixture
def request_for(delivery):
    """Make the request of a stored mail: `request_for(b"Subject: Hi", sender="")`."""

    def make(head: bytes = b"Subject: Hello", body: bytes = b"Hello you.\r\n", **fields: Any):
        return MailRequest(delivery(raw=head + b"\r\n\r\n" + body, **fields))

    return make


def the_answer() -> tuple[EmailMessage, Delivery]:
    """Return the one mail in the outbox, parsed, and its delivery."""
    delivery = Delivery.objects.get(queue="outgoing")
    raw = delivery.message.raw.replace(b"\r\n", b"\n")
    parsed = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    return parsed, delivery


# What is given


def test_envelope_is_told_from_the_header(request_for):
    request = request_for(
        b"From: Boss <boss@client.test>\r\nTo: elsewhere@client.test", sender="Reader@client.test"
    )

    assert request.sender == "Reader@client.test"
    assert request.recipient == "you@example.com"
    assert request.author == "boss@client.test"
    assert request.identity.person == "reader@client.test"
    assert not request.identity.proven


@pytest.mark.parametrize(
    "head",
    [
        b"From: a@client.test, b@client.test",
        b"From: a@client.test\r\nFrom: b@client.test",
        b"From: Us: a@client.test;",
        b"From: a@client.test)b@client.test",
        b"From: a@client.test\r\nno field\r\nFrom: b@client.test",
        b"Sender: a@client.test",
    ],
)
def test_mail_without_one_author_beyond_doubt_has_none(request_for, head):
    assert request_for(head).author == ""


def test_null_sender_is_nobody(request_for):
    assert request_for(sender="").identity is None


def test_content_is_read_when_it_is_asked_for(request_for):
    mail = EmailMessage()
    mail["Subject"] = "Grüße"
    mail.set_content("New.\n\nOn Mon, A wrote:\n> old\n> older\n")
    mail.add_alternative("<p>New.</p>", subtype="html")
    mail.add_attachment(b"\0", maintype="image", subtype="png", filename="a.png")
    head, _, body = mail.as_bytes(policy=email.policy.SMTP).partition(b"\r\n\r\n")

    request = request_for(head, body)

    assert request.subject == "Grüße"
    assert request.body().startswith("New.")
    assert request.reply_text() == "New."
    assert request.html() == "<p>New.</p>\n"
    assert [part.filename for part in request.attachments] == ["a.png"]
    assert ("Subject", "Grüße") in request.headers
    assert request.header("x-absent") == ""
    assert request.raw == head + b"\r\n\r\n" + body


def test_answer_in_html_alone_is_read(request_for):
    request = request_for(
        b"Content-Type: text/html; charset=utf-8",
        b"<div>It does.</div><div class=gmail_quote><div>On Mon, A wrote:<br></div>"
        b"<blockquote>Does it start?</blockquote></div>",
    )

    assert request.reply_text() == "It does."
    assert request.body() == "It does.\n\n> On Mon, A wrote:\n>\n> Does it start?\n"
    assert request.html().startswith("<div>It does.</div>")


@pytest.mark.parametrize(
    ("sender", "head", "is_bounce"),
    [
        ("reader@client.test", b"Subject: Hello", False),
        ("", b"Subject: Hello", True),
        ("mta@client.test", b"Content-Type: multipart/report; boundary=b", True),
        ("reader@client.test", b"Subject: multipart/report", False),
        (
            "abuse@client.test",
            b"Content-Type: multipart/report; report-type=feedback-report; boundary=b",
            False,
        ),
    ],
)
def test_bounce_is_known_by_its_sender_or_its_form(request_for, sender, head, is_bounce):
    assert request_for(head, sender=sender).is_bounce is is_bounce


# respond


def test_answer_goes_to_the_envelope_sender_in_the_name_of_the_recipient(request_for, templates):
    templates(**{"answer.msg": TEMPLATE})
    request = request_for(b"From: boss@client.test", sender="reader@client.test")

    request.respond("answer.msg", subject="Welcome", text="Grüße & <Küsse>")

    answer, delivery = the_answer()
    assert delivery.recipient == "reader@client.test"
    assert delivery.message.sender == "you@example.com"
    assert delivery.message.cause == request.delivery
    assert (answer["From"], answer["To"]) == ("you@example.com", "reader@client.test")
    assert answer["Subject"] == "Welcome"
    assert answer.get_content() == "Grüße & <Küsse>\n"


def test_answer_says_what_it_answers_and_that_a_machine_wrote_it(request_for, templates, settings):
    settings.MAIL = {**settings.MAIL, "HOSTNAME": "mail.example.com"}
    templates(**{"answer.msg": TEMPLATE})
    request = request_for(
        b"Message-ID: <3@client.test>\r\nReferences: <1@client.test>\r\n <2@client.test>"
    )

    request.respond("answer.msg")

    answer, delivery = the_answer()
    assert answer["In-Reply-To"] == "<3@client.test>"
    assert answer["References"].split() == ["<1@client.test>", "<2@client.test>", "<3@client.test>"]
    assert answer["Auto-Submitted"] == "auto-replied"
    assert answer["Message-ID"].endswith("@mail.example.com>")
    assert answer["Message-ID"] == delivery.message.message_id
    assert abs((answer["Date"].datetime - datetime.now(UTC)).total_seconds()) < 3600


def test_long_thread_keeps_its_first_and_its_last_references(request_for, templates):
    templates(**{"answer.msg": TEMPLATE})
    ids = [f"<{number}@client.test>" for number in range(100)]
    request = request_for(f"Message-ID: {ids[99]}\r\nReferences: {' '.join(ids[:99])}".encode())

    request.respond("answer.msg")

    answer, _ = the_answer()
    assert answer["References"].split() == [ids[0], *ids[91:]]


@pytest.mark.parametrize(
    "head",
    [
        b"Message-ID: a@client.test",
        b"Message-ID: <a b@client.test>",
        b"Message-ID: <\xff@client.test>",
        b"Message-ID: <" + b"a" * 5000 + b"@client.test>",
        b"Message-ID:",
        b"References: <1@client.test>",
    ],
)
def test_malformed_message_id_is_left_out(request_for, templates, head):
    templates(**{"answer.msg": TEMPLATE})

    request_for(head).respond("answer.msg")

    answer, _ = the_answer()
    assert answer["In-Reply-To"] is None
    assert answer["References"] is None


def test_malformed_references_are_left_out(request_for, templates):
    templates(**{"answer.msg": TEMPLATE})

    request_for(b"Message-ID: <2@c>\r\nReferences: x <1@c> <\0@c> <=?utf-8?q?a=0Ab?=> <").respond(
        "answer.msg"
    )

    answer, _ = the_answer()
    assert answer["References"].split() == ["<1@c>", "<2@c>"]


def test_template_without_a_subject_repeats_the_subject_it_answers(request_for, templates):
    templates(**{"answer.msg": "{% block text %}Yes{% endblock %}"})

    request_for(b"Subject: Re: =?utf-8?q?Gr=C3=BC=C3=9Fe?=").respond("answer.msg")

    assert the_answer()[0]["Subject"] == "Re: Grüße"


def test_html_is_an_alternative_that_is_escaped(request_for, templates):
    templates(
        **{
            "answer.msg": "{% block text %}{{ name }}{% endblock %}"
            "{% block html %}<p>{{ name }}</p>{% endblock %}"
        }
    )

    request_for().respond("answer.msg", name="<b>")

    answer, _ = the_answer()
    text, html = answer.iter_parts()
    assert answer.get_content_type() == "multipart/alternative"
    assert text.get_content() == "<b>\n"
    assert html.get_content().strip() == "<p>&lt;b&gt;</p>"


def test_template_sees_the_mail_that_it_answers(request_for, templates):
    templates(**{"answer.msg": "{% block text %}You wrote: {{ message.body }}{% endblock %}"})

    request_for(body=b"a < b\r\n").respond("answer.msg")

    assert the_answer()[0].get_content() == "You wrote: a < b\n"


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
@pytest.mark.parametrize("place", ["subject", "text", "author", "reply_to", "header"])
def test_no_text_of_a_stranger_adds_a_header(request_for, templates, place, text):
    templates(**{"answer.msg": TEMPLATE})
    arguments = {
        "subject": {"subject": text},
        "text": {"text": text},
        "author": {"author": f"{text} <list@example.com>"},
        "reply_to": {"reply_to": f"{text} <list@example.com>"},
        "header": {"headers": {"X-About": text}},
    }[place]

    request_for().respond("answer.msg", **arguments)

    answer, delivery = the_answer()
    assert "Bcc" not in answer
    assert {name.lower() for name in answer} <= {
        *["content-type", "mime-version", "content-transfer-encoding", "subject", "from", "to"],
        *["reply-to", "message-id", "date", "auto-submitted", "x-about"],
    }
    assert delivery.recipient == "reader@client.test"
    if place == "author":
        assert delivery.message.sender == "list@example.com"
        assert people.mailbox(mime.raw_header(mime.parse(delivery.message.raw), "From"))[1] == (
            "list@example.com"
        )


def test_field_that_a_handler_sets_takes_the_place_of_ours_in_any_case(request_for, templates):
    templates(**{"answer.msg": TEMPLATE})
    headers = {"reply-to": "desk@example.com", "SUBJECT": "Mine", "X-Ticket": "17"}

    request_for().respond(
        "answer.msg", reply_to="list@example.com", headers=headers, subject="Ours"
    )

    answer, _ = the_answer()
    assert answer.get_all("Reply-To") == ["desk@example.com"]
    assert answer.get_all("Subject") == ["Mine"]
    assert answer["X-Ticket"] == "17"


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_no_subject_of_a_stranger_adds_a_header_to_the_answer(request_for, templates, text):
    templates(**{"answer.msg": "{% block text %}Yes{% endblock %}"})
    head = b"Subject: " + mime.one_line(text).encode()

    request_for(head).respond("answer.msg")

    assert "Bcc" not in the_answer()[0]


@pytest.mark.parametrize(
    "sender",
    [
        '"a b"@client.test',
        '"<x>, y"@client.test',
        r'"quo\"ted"@client.test',
        "o'neill+tag=a/b@client.test",
        "a@[192.0.2.1]",
        "a@[ipv6:2001:db8::1]",
        "用户@client.test",
        "a@xn--bcher-kva.example",
        "a" * 64 + "@" + "b" * 60 + ".test",
    ],
)
def test_anybody_who_can_write_can_be_answered(request_for, templates, sender):
    templates(**{"answer.msg": TEMPLATE})

    request_for(sender=sender, recipient=sender).respond("answer.msg", subject="Hi")

    _, delivery = the_answer()
    assert delivery.recipient == delivery.message.sender == sender


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(*[hostile.texts] * 6, st.booleans())
def test_no_text_adds_a_line_to_the_header_or_keeps_an_answer_back(
    templates, subject, name, text, value, asked, address, html
):
    body = TEMPLATE + "{% block html %}<p>{{ text }}</p>{% endblock %}" * html
    templates(**{"answer.msg": body})
    sender = quoted(address) or "reader@client.test"
    stored = Message(sender=sender)
    raw = f"Subject: {asked}\r\nFrom: {asked} <a@client.test>\r\nMessage-ID: <{asked}>".encode()
    request = MailRequest(Delivery(pk=1, message=stored, recipient="you@example.com"), raw=raw)

    with outbox.collecting(1) as collected:
        request.respond(
            "answer.msg",
            author=f"{name} <you@example.com>",
            reply_to=f"{name} <you@example.com>",
            headers={"X-About": value},
            subject=subject,
            text=text,
            even_to_automatic=True,
        )

    [mail] = collected.mails
    parsed = mime.parse(mail.raw)
    fields = hostile.fields(mail.raw)
    assert set(fields) - {"in-reply-to", "references"} == {
        *["content-type", "mime-version", "subject", "from", "to", "reply-to"],
        *["message-id", "date", "auto-submitted", "x-about"],
        *([] if html else ["content-transfer-encoding"]),
    }
    assert max(fields.values()) == 1
    assert (mail.sender, mail.recipients) == ("you@example.com", [sender])
    assert people.mailbox(mime.raw_header(parsed, "From"))[1] == "you@example.com"


def quoted(text: str) -> str:
    """Return an address that somebody could write from, with this as local part; or ""."""
    escaped = re.sub(r'([\\"])', r"\\\1", text)
    with contextlib.suppress(BadAddress):
        return take_path(f'<"{escaped}"@client.test>')[0]
    return ""


def test_missing_template_is_an_error(request_for):
    with pytest.raises(TemplateDoesNotExist):
        request_for().respond("no-such.msg")


def test_author_that_is_no_address_is_an_error(request_for, templates):
    templates(**{"answer.msg": TEMPLATE})

    with pytest.raises(BadAddress):
        request_for().respond("answer.msg", author="Nobody")


# forward


def test_forwarded_bytes_are_those_that_came(request_for):
    body = b"\0\xff .\r\n.\nbare\rend"
    request = request_for(b"subject:  Odd\r\n\tfolding \r\nDKIM-Signature: v=1", body)

    request.forward("other@client.test", headers=[("X-Loop", "you@example.com")])

    delivery = Delivery.objects.get(queue="outgoing")
    added, _, rest = delivery.message.raw.partition(b"subject:")
    assert b"subject:" + rest == request.raw
    names = [name for name, _ in mime.headers(mime.parse(added + b"\r\n"))]
    assert names == ["Delivered-To", "Received", "X-Loop"]
    assert delivery.message.sender == "reader@client.test"
    assert delivery.message.cause == request.delivery


def test_forwarding_to_many_stores_one_message(request_for):
    recipients = [f"reader-{number}@client.test" for number in range(3)]

    request_for().forward(recipients, sender="")

    deliveries = Delivery.objects.filter(queue="outgoing")
    assert sorted(each.recipient for each in deliveries) == recipients
    assert [message.sender for message in Message.objects.filter(protocol="")] == [""]


@pytest.mark.parametrize(
    ("facts", "received"),
    [
        (
            {"peer": "192.0.2.7", "helo": "mail.client.test", "protocol": "ESMTPS"},
            "from mail.client.test ([192.0.2.7]) by localhost with ESMTPS id",
        ),
        (
            {"peer": "2001:db8::1", "helo": "[IPv6:2001:db8::1]", "protocol": "ESMTP"},
            "from [IPv6:2001:db8::1] ([IPv6:2001:db8::1]) by localhost with ESMTP id",
        ),
        (
            {"peer": "192.0.2.7", "helo": 'x) by (evil; "\\ bücher', "protocol": "SMTP"},
            "from unknown ([192.0.2.7]) by localhost with SMTP id",
        ),
        ({"peer": "192.0.2.7", "helo": "", "protocol": "SMTP"}, "from unknown ([192.0.2.7]) by"),
        ({"peer": "", "protocol": "LMTP"}, "by localhost with LMTP id"),
    ],
)
def test_received_field_is_well_formed(request_for, facts, received):
    request = request_for(**facts)

    request.forward("other@client.test")

    raw = Delivery.objects.get(queue="outgoing").message.raw
    field = mime.header(mime.parse(raw), "Received")
    assert field.startswith(received)
    assert field.endswith(request.delivery.message.created_at.strftime("%H:%M:%S +0000"))


def test_mail_may_be_put_into_another_queue_too(request_for):
    from mailapp.models import Queue

    Queue.objects.create(name="slow")
    request = request_for()

    request.to_queue("slow")

    again = Delivery.objects.get(queue="slow")
    assert again.message == request.delivery.message
    assert (again.recipient, again.person) == ("you@example.com", "reader@client.test")
    assert again.status == Delivery.Status.QUEUED
