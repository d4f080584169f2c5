"""Machines that answer machines, and mail that comes back: what is not sent again."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailapp import mime
from mailapp.models import OUTGOING, Attempt, Delivery, Message
from mailapp.routing import route, stateless
from tests import corpus

TEMPLATE = "{% block text %}Thank you{% endblock %}"

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def answer_template(templates: Callable[..., None]) -> None:
    templates(**{"answer.msg": TEMPLATE})


@stateless
@route("(anyone)@(host)", anyone=".+")
def ANSWER(message, anyone, host):
    message.respond("answer.msg")


@stateless
@route("(anyone)@(host)", anyone=".+")
def ANSWER_ALL(message, anyone, host):
    message.respond("answer.msg", even_to_automatic=True)


def answers() -> list[str]:
    """Who was written to."""
    return list(Delivery.objects.filter(queue=OUTGOING).values_list("recipient", flat=True))


# What machines send


@pytest.mark.parametrize(
    ("sender", "head"),
    [
        ("", b"Subject: Hello"),
        ("MAILER-DAEMON@client.test", b"Subject: Hello"),
        ("owner-news@client.test", b"Subject: Hello"),
        ("news-request@client.test", b"Subject: Hello"),
        ("news-bounces@client.test", b"Subject: Hello"),
        ("reader@client.test", b"Return-Path: <>"),
        ("reader@client.test", b"Auto-Submitted: auto-replied"),
        ("reader@client.test", b"Precedence: junk"),
        ("reader@client.test", b"Precedence: auto_reply"),
        ("reader@client.test", b"List-Unsubscribe: <mailto:leave@client.test>"),
        ("reader@client.test", b"Content-Type: multipart/report; boundary=b"),
        ("reader@client.test", b"X-Auto-Response-Suppress: OOF, AutoReply"),
        ("reader@client.test", b"From: No Reply <no-reply@client.test>"),
        ("reader@client.test", b"From: Shop <shop_noreply+42@client.test>"),
        ("reader@client.test", b"From: <do.not.reply@client.test>"),
        ("reader@client.test", b"From: Postmaster <>"),
    ],
)
def test_machine_gets_no_answer_and_the_operator_is_told_why(
    handle, work, message: Callable[..., Message], sender: str, head: bytes
):
    handle(ANSWER)
    message(sender=sender, recipients=["you@localhost"], raw=head + b"\r\n\r\n")

    work()

    assert answers() == []
    [attempt] = Attempt.objects.all()
    why = (b"" if head == b"Subject: Hello" else head).partition(b":")[0].decode() or sender
    assert attempt.outcome == Delivery.Status.DONE
    assert attempt.reply.startswith("Not answered, for a machine sent it: ")
    assert (why or "the null sender") in attempt.reply


@pytest.mark.parametrize(
    "head",
    [
        b"Subject: Hello",
        b"Auto-Submitted: no (a person)",
        b"Precedence: first-class",
        b"X-Auto-Response-Suppress: None",
        b"X-Auto-Response-Suppress: DR, RN",
        b"From: Reply All <reply@client.test>",
        b"From: A Postmaster <ann@client.test>",
        b"From: Nor E. Ply <noreplyson@client.test>",
        b"Subject: Mail delivery failed",
    ],
)
def test_person_is_answered(handle, work, message: Callable[..., Message], head: bytes):
    handle(ANSWER)
    message(recipients=["you@localhost"], raw=head + b"\r\n\r\n")

    work()

    assert answers() == ["reader@client.test"]
    assert Attempt.objects.get().reply == ""


def test_what_comes_to_an_address_for_bounces_is_not_answered(
    handle, work, message: Callable[..., Message]
):
    handle(ANSWER)
    message(recipients=["news-bounces@localhost"])

    work()

    assert answers() == []


def test_handler_may_mean_to_answer_a_machine(handle, work, message: Callable[..., Message]):
    handle(ANSWER_ALL)
    message(recipients=["you@localhost"], raw=b"Auto-Submitted: auto-generated\r\n\r\n")
    message(recipients=["you@localhost"], sender="")

    work()

    assert answers() == ["reader@client.test"]
    assert "the null sender" in Attempt.objects.latest("id").reply


def test_operator_reads_what_the_handler_says_and_that_there_was_no_answer(
    handle, work, message: Callable[..., Message]
):
    @stateless
    @route("(anyone)@(host)", anyone=".+")
    def NOTE(message, anyone, host):
        message.note = "Paid"
        message.respond("answer.msg")
        message.respond("answer.msg")

    handle(NOTE)
    message(recipients=["you@localhost"], raw=b"Precedence: bulk\r\n\r\n")

    work()

    assert Attempt.objects.get().reply == (
        "Paid; Not answered, for a machine sent it: Precedence: bulk"
    )


# Two folders hold nothing else. Of all others, what says so in words that no product code reads.
BOUNCES = {"flufl-bounce", "multipart_report_emails"}
MARKS = re.compile(
    rb"^(?:auto-submitted: *auto|precedence: *(?:bulk|junk|list)|list-[a-z]+:|return-path: *<>"
    rb"|content-type: *multipart/report|from:[^\n]*(?:mailer-daemon|postmaster@|no-?reply))",
    re.IGNORECASE | re.MULTILINE,
)
# Without the null sender, which a file does not show, it looks like the mail of a person.
DISGUISED = "groupwise_03.txt"


def automatic_mail() -> list[Any]:
    return [
        pytest.param(path, id=path.name)
        for path in corpus.messages()
        if BOUNCES & set(path.parts) or MARKS.search(header_section(path.read_bytes()))
    ]


def header_section(raw: bytes) -> bytes:
    return re.split(rb"\r?\n\r?\n|\r\r", raw, maxsplit=1)[0]


@corpus.needs_corpus
@pytest.mark.parametrize("path", automatic_mail())
def test_no_automatic_mail_of_the_corpus_is_answered(
    path: Path, message: Callable[..., Message], handle, work
):
    handle(ANSWER)
    raw = re.sub(rb"\r\n|\r|\n", b"\r\n", path.read_bytes())
    local = mime.mailbox(mime.raw_header(mime.parse_head(raw), "To"))[1].rpartition("@")[0]
    returns = re.search(rb"^Return-Path: *<([^>\r]*)>", header_section(raw), re.MULTILINE)
    nobody = "" if path.name == DISGUISED else "reader@client.test"
    message(
        sender=returns[1].decode() if returns else nobody,
        recipients=[f"{local or 'you'}@localhost"],
        raw=raw,
    )

    work()

    assert answers() == []
    assert Attempt.objects.get().outcome == Delivery.Status.DONE


@corpus.needs_corpus
def test_corpus_has_automatic_mail():
    assert len(automatic_mail()) > 130


# Circles


@stateless
@route("(anyone)@(host)", anyone=".+")
def FORWARD(message, anyone, host):
    message.forward("elsewhere@client.test")


def forwarded() -> bytes:
    """Return the last mail that was forwarded."""
    return Message.objects.filter(protocol="").latest("id").raw


def test_forwarded_mail_that_comes_back_is_not_forwarded_again(
    handle, work, message: Callable[..., Message]
):
    handle(FORWARD)
    message(recipients=["You@localhost"])
    work()
    through_others = b"Received: from a by b; now\r\nDelivered-To: elsewhere@client.test\r\n"

    back = message(recipients=["you@localhost"], raw=through_others + forwarded())
    work()

    failed = back.deliveries.get()
    assert (failed.status, failed.reply) == ("failed", "550 5.4.6 The mail goes in a circle")
    assert answers() == ["reader@client.test", "elsewhere@client.test"]  # its sender is told
    assert Message.objects.filter(protocol="", sender="").get().cause == failed


def test_nobody_is_told_of_an_automatic_mail_that_goes_in_a_circle(
    handle, work, message: Callable[..., Message]
):
    handle(FORWARD)
    message(recipients=["you@localhost"], raw=b"Precedence: bulk\r\n\r\n")
    work()

    message(recipients=["you@localhost"], raw=forwarded())
    work()

    assert answers() == ["elsewhere@client.test"]


def test_mail_that_was_forwarded_from_another_address_of_ours_is_forwarded(
    handle, work, message: Callable[..., Message]
):
    handle(FORWARD)
    message(recipients=["you@localhost"])
    work()

    message(recipients=["other@localhost"], raw=forwarded())
    work()

    assert answers() == ["elsewhere@client.test"] * 2


@pytest.mark.parametrize(
    "trace",
    [
        "Delivered-To: you@localhost",
        "Delivered-To: you@localhost\r\nReceived: from a by elsewhere.test with SMTP id 7; now",
        "Delivered-To: you@localhost\r\nReceived: from a by localhost (Other) with SMTP id A7; now",
        "Delivered-To: you@localhost\r\nSubject: Hi\r\nReceived: by localhost id 7; now",
    ],
)
def test_what_another_mail_system_delivered_to_the_address_is_forwarded(
    handle, work, message: Callable[..., Message], trace: str
):
    handle(FORWARD)
    message(recipients=["you@localhost"], raw=trace.encode() + b"\r\n\r\n")

    work()

    assert answers() == ["elsewhere@client.test"]


@pytest.mark.parametrize("local", ["用户", '"a b"', "a=?utf-8?q?b?="])
def test_circle_is_known_at_an_unusual_address(
    handle, work, message: Callable[..., Message], local: str
):
    handle(FORWARD)
    message(recipients=[f"{local}@localhost"], helo="mail.client.test", peer="2001:db8::1")
    work()

    back = message(recipients=[f"{local}@localhost"], raw=forwarded())
    work()

    assert back.deliveries.get().status == "failed"
