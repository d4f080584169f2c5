"""Who is told of a failure, and how often."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from mailapp import bounces, dsn
from mailapp.models import OUTGOING, Delivery, Duty, Message, Status
from tests import corpus

pytestmark = pytest.mark.django_db

FAILURES = [("you@example.com", "550 5.1.1 User unknown")]
DELAYS = [("you@example.com", "450 4.2.0 Greylisted")]


def test_sender_is_told_from_the_null_sender(message: Callable[..., Message]):
    failed = message(sender="reader@client.test", queue=OUTGOING)

    assert dsn.post_failure(failed, FAILURES) == ""

    report = Message.objects.exclude(pk=failed.pk).get()
    assert report.sender == ""
    assert report.cause == failed.deliveries.get()
    assert list(report.deliveries.values_list("queue", "recipient")) == [
        (OUTGOING, "reader@client.test")
    ]
    assert bounces.read(report.raw) is not None
    assert b"Subject: Hello" in report.raw
    assert b"Hello you." not in report.raw


def reports() -> int:
    """How many reports were posted."""
    return Message.objects.filter(sender="", protocol="").count()


def let_the_hour_pass() -> None:
    Duty.objects.update(due_at=F("due_at") - timedelta(hours=1))


def test_sender_is_told_once_for_each_message(message: Callable[..., Message]):
    failed = message()

    told = [dsn.post_failure(failed, FAILURES)]
    let_the_hour_pass()
    told.append(dsn.post_failure(failed, FAILURES))

    assert told == ["", "the sender was told of this mail before"]
    assert reports() == 1


def test_sender_is_told_once_an_hour(message: Callable[..., Message]):
    senders = ["reader@client.test", "Reader@CLIENT.test", "another@client.test"]

    told = [dsn.post_failure(message(sender=sender), FAILURES) for sender in senders]
    let_the_hour_pass()
    told.append(dsn.post_failure(message(), FAILURES))

    assert told == ["", "the sender was told of another mail within the hour", "", ""]
    assert reports() == 3


def test_hour_does_not_begin_with_a_report_that_is_rolled_back(message: Callable[..., Message]):
    failed = message()
    with contextlib.suppress(LookupError), transaction.atomic():
        dsn.post_failure(failed, FAILURES)
        raise LookupError

    assert dsn.post_failure(failed, FAILURES) == ""
    assert reports() == 1


@pytest.mark.django_db(transaction=True)
def test_two_at_once_tell_the_sender_once(
    message: Callable[..., Message], together: Callable[..., list[str]]
):
    messages = [message(), message()]

    def tell() -> str:
        with transaction.atomic():
            return dsn.post_failure(messages.pop(), FAILURES)

    assert sorted(together(tell, tell)) == [
        "",
        "the sender was told of another mail within the hour",
    ]
    assert reports() == 1


def test_notice_of_a_delay_is_told_once_and_the_failure_all_the_same(
    message: Callable[..., Message],
):
    late = message()

    told = [dsn.post_delay(late, DELAYS, timezone.now())]
    let_the_hour_pass()
    told.append(dsn.post_delay(late, DELAYS, timezone.now()))
    told.append(dsn.post_failure(late, FAILURES))

    assert told == ["", "the sender was told of this mail before", ""]
    assert reports() == 2


def test_operator_is_told_that_a_report_cannot_be_signed(
    message: Callable[..., Message], settings: Any, caplog: pytest.LogCaptureFixture
):
    failed = message()
    settings.MAIL = {**settings.MAIL, "DKIM": {"localhost": {"new": "/nowhere/key.pem"}}}

    why = dsn.post_failure(failed, FAILURES)

    assert why.startswith("A DKIM key cannot be used")
    assert "/nowhere/key.pem" in caplog.text
    settings.MAIL = {**settings.MAIL, "DKIM": {}}
    assert dsn.post_failure(failed, FAILURES) == ""
    assert reports() == 1


def test_null_sender_is_told_nothing(message: Callable[..., Message]):
    dsn.post_failure(message(sender=""), FAILURES)
    dsn.post_delay(message(sender=""), DELAYS, timezone.now())

    assert reports() == 0


@pytest.mark.parametrize(
    "field",
    [
        b"Auto-Submitted: auto-replied",
        b"Precedence: bulk",
        b"Precedence: list",
        b"Precedence: junk",
        b"List-Id: <news.example.com>",
        b"Content-Type: multipart/report; report-type=delivery-status; boundary=x",
    ],
)
def test_nothing_is_told_about_automatic_mail(message: Callable[..., Message], field: bytes):
    automatic = message(raw=field + b"\r\n\r\nBody\r\n")

    dsn.post_failure(automatic, FAILURES)
    dsn.post_delay(automatic, DELAYS, timezone.now())

    assert reports() == 0


# Bounces that nobody could tell from a person's mail, were they not from the null sender.
DISGUISED = {
    *("bounce_02.txt", "groupwise_03.txt", "simple_15.txt", "simple_20.txt"),
    *("simple_22.txt", "simple_36.txt", "simple_43.txt"),
}


@corpus.needs_corpus
def test_nothing_is_told_about_the_bounces_of_the_corpus(message: Callable[..., Message]):
    found = [path for path in corpus.messages() if path.parent.name == "flufl-bounce"]

    for path in found:
        for sender in ("", f"{path.stem}@client.test"):
            failed = message(raw=path.read_bytes(), sender=sender)
            dsn.post_failure(failed, FAILURES)
            dsn.post_delay(failed, DELAYS, timezone.now())

    told = Delivery.objects.filter(message__protocol="").values_list("recipient", flat=True)
    assert len(found) > 100
    assert set(told) == {f"{Path(name).stem}@client.test" for name in DISGUISED}


def test_mail_that_says_it_is_not_automatic_is_told_of(message: Callable[..., Message]):
    dsn.post_failure(message(raw=b"Auto-Submitted: no\r\n\r\nBody\r\n"), FAILURES)

    assert reports() == 1


def test_sender_with_a_line_break_is_not_written_to(message: Callable[..., Message]):
    dsn.post_failure(message(sender="a\r\nb@client.test"), FAILURES)

    assert reports() == 0


def test_nobody_is_told_of_what_was_discarded(message: Callable[..., Message]):
    discarded = message(sender="reader@client.test", queue=OUTGOING)

    Delivery.objects.discard("Not wanted")

    assert Delivery.objects.get().status == Status.FAILED
    assert Message.objects.get() == discarded
