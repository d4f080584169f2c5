"""Machines that answer machines, mail that comes back, and storms: what is not sent."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.mail import send_mail
from django.db import connection
from django.db.models import F, QuerySet
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from mailapp import mime, people
from mailapp.models import OUTGOING, Answer, Attempt, Delivery, Message, Timer
from mailapp.routing import after, route, route_like, stateless
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
        ("news-bounces+you=localhost@client.test", b"Subject: Hello"),
        ("bounces+4711-a1-you=localhost@em.client.test", b"Subject: Hello"),
        ("mailerdaemon@client.test", b"Subject: Hello"),
        ("LISTSERV@client.test", b"Subject: Hello"),
        ("reader@client.test", b"Return-Path: <>"),
        ("reader@client.test", b"Auto-Submitted: auto-replied"),
        ("reader@client.test", b"Precedence: junk"),
        ("reader@client.test", b"Precedence: auto_reply"),
        ("reader@client.test", b"Precedence: Auto-Reply"),
        ("reader@client.test", b"X-Precedence: bulk"),
        ("reader@client.test", b"X-Autoreply: yes"),
        ("reader@client.test", b"X-Autorespond: I am on leave"),
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
        b"X-Autoreply: no",
        b"X-Auto-Response-Suppress: None",
        b"X-Auto-Response-Suppress: DR, RN",
        b"From: Reply All <reply@client.test>",
        b"From: A Postmaster <ann@client.test>",
        b"From: Nor E. Ply <noreplyson@client.test>",
        b"From: Trampolines <bouncestudio@client.test>",
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
    local = people.mailbox(mime.raw_header(mime.parse_head(raw), "To"))[1].rpartition("@")[0]
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


# Storms


def write(message: Callable[..., Message], count: int, **fields: Any) -> None:
    """Have the reader, or `sender`, write so many mails."""
    for _ in range(count):
        message(**{"recipients": ["you@localhost"]} | fields)


def sent() -> int:
    """How many answers are on their way."""
    return Delivery.objects.filter(queue=OUTGOING, status=Delivery.Status.QUEUED).count()


def held() -> QuerySet[Delivery]:
    return Delivery.objects.filter(queue=OUTGOING, status=Delivery.Status.HELD)


def let_pass(**time: float) -> None:
    Answer.objects.update(at=F("at") - timedelta(**time))


def test_answers_beyond_ten_an_hour_are_held_where_the_operator_sees_why(
    handle, work, message: Callable[..., Message]
):
    handle(ANSWER)
    write(message, 12)

    work()

    assert sent() == 10
    assert [answer.reply for answer in held()] == [
        "Held: this handler has answered this person 10 times within an hour"
    ] * 2
    assert not Attempt.objects.exclude(outcome=Delivery.Status.DONE).exists()


def test_limit_is_the_same_whether_mails_come_together_or_one_by_one(
    handle, work, message: Callable[..., Message]
):
    handle(ANSWER)

    for _ in range(12):
        write(message, 1)
        work()

    assert (sent(), held().count()) == (10, 2)


def test_answers_go_on_in_the_next_hour_until_there_are_fifty_in_a_day(
    handle, work, message: Callable[..., Message]
):
    handle(ANSWER)
    counts = []

    for _ in range(6):
        write(message, 11)
        work()
        counts.append(sent())
        let_pass(hours=1)

    assert counts == [10, 20, 30, 40, 50, 50]
    assert held().latest("id").reply.endswith("50 times within a day")
    let_pass(days=1)
    write(message, 1)
    work()
    assert sent() == 51


def test_limit_is_for_each_person_whatever_the_case(handle, work, message: Callable[..., Message]):
    handle(ANSWER)
    write(message, 6)
    write(message, 6, sender="Reader@CLIENT.test")
    write(message, 1, sender="another@client.test")

    work()

    assert sent() == 11
    assert {answer.recipient for answer in held()} == {"Reader@client.test"}


def test_limit_is_for_each_handler(handle, work, message: Callable[..., Message]):
    @stateless
    @route("(anyone)@(host)", anyone=".+")
    def ANSWER_TOO(message, anyone, host):
        message.respond("answer.msg")

    handle(one=[ANSWER], two=[ANSWER_TOO])
    write(message, 11)

    work()

    assert (sent(), held().count()) == (20, 2)


def test_answers_of_a_state_and_of_a_timer_count_together(
    handle, work, message: Callable[..., Message]
):
    @route("(anyone)@(host)", anyone=".+")
    def START(message, anyone, host):
        for _ in range(10):
            message.respond("answer.msg")
        return WAITING

    @route_like(START)
    def WAITING(message, anyone, host): ...

    @after(WAITING, seconds=1)
    def remind(conversation):
        conversation.respond("answer.msg")

    handle(START, WAITING, remind)
    write(message, 1)
    work()

    Timer.objects.update(due_at=timezone.now())
    work()

    assert (sent(), held().count()) == (10, 1)


def test_operator_releases_an_answer_that_was_held(handle, work, message: Callable[..., Message]):
    handle(ANSWER)
    write(message, 11)
    work()

    held().release()

    assert (sent(), held().count()) == (11, 0)


def test_no_answer_is_held_without_a_limit(
    handle, work, message: Callable[..., Message], settings: Any
):
    settings.MAIL = {**settings.MAIL, "ANSWERS_AN_HOUR": 0, "ANSWERS_A_DAY": 0}
    handle(ANSWER)
    write(message, 12)

    work()

    assert sent() == 12
    assert not Answer.objects.exists()


def test_answer_of_a_try_that_fails_does_not_count(handle, work, message: Callable[..., Message]):
    @stateless
    @route("(anyone)@(host)", anyone=".+")
    def FAIL(message, anyone, host):
        message.respond("answer.msg")
        raise LookupError

    handle(FAIL)
    write(message, 12)

    work()

    assert not Answer.objects.exists()


def test_answer_by_way_of_django_counts_as_any_other(handle, work, message: Callable[..., Message]):
    @stateless
    @route("(anyone)@(host)", anyone=".+")
    def SEND(message, anyone, host):
        send_mail("Hello", "Hello.", "you@localhost", [message.sender.upper()])

    handle(SEND, ANSWER)
    write(message, 6)

    work()

    assert (sent(), held().count()) == (10, 2)


def test_what_a_handler_sends_to_others_is_no_answer(handle, work, message: Callable[..., Message]):
    @stateless
    @route("(anyone)@(host)", anyone=".+")
    def SEND(message, anyone, host):
        send_mail("News", "Hello.", "you@localhost", ["other@client.test"])
        send_mail("News", "Hello.", "you@localhost", ["other@client.test", message.sender])
        message.forward(message.sender)

    handle(SEND)
    write(message, 11)

    work()

    assert sent() == 44


@pytest.mark.django_db(transaction=True)
def test_several_workers_keep_the_limit_together(
    handle, work, message: Callable[..., Message], together: Callable[..., list[int]]
):
    handle(ANSWER)
    for number in range(30):
        write(message, 1, sender=f"reader-{number % 2}@client.test")

    assert sum(together(work, work)) == 30

    assert (sent(), held().count()) == (20, 10)


def test_batch_that_is_answered_takes_as_many_queries_as_one_mail(
    handle, work, message: Callable[..., Message], settings: Any
):
    settings.MAIL = {**settings.MAIL, "BATCH_SECONDS": 60}
    handle(ANSWER)
    counts = []

    for size in (1, 40):
        for number in range(size):
            write(message, 1, sender=f"reader-{size}-{number}@client.test")
        with CaptureQueriesContext(connection) as queries:
            work()
        counts.append(len(queries))

    assert sent() == 41
    assert counts[0] == counts[1]
