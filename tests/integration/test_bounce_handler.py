"""A bounce that comes in is noted on the delivery that it speaks of."""

from __future__ import annotations

import pytest

from mailapp import dsn
from mailapp.models import OUTGOING, UNDELIVERABLE, Delivery, Message, Status

OURS = b"From: news@example.com\r\nMessage-ID: <news@example.com>\r\n\r\nNews\r\n"


@pytest.fixture
def sent(delivery) -> Delivery:
    """A delivery of ours that the relay has sent."""
    made = delivery("reader@client.test", raw=OURS, queue=OUTGOING, protocol="")
    Delivery.objects.filter(pk=made.pk).update(status=Status.DONE, due_at=None)
    return made


def bounce() -> bytes:
    failures = [("reader@client.test", "550 5.1.1 User unknown")]
    return dsn.compose(Message(pk=1, sender="postmaster@localhost"), failures, OURS)


def test_bounce_marks_the_delivery_failed_and_answers_nobody(person, sent):
    person("postmaster@client.test").send("postmaster@localhost", bounce(), sender="")

    sent.refresh_from_db()
    assert (sent.status, sent.reply) == (Status.FAILED, "550 5.1.1 User unknown")
    assert not Delivery.objects.filter(queue=UNDELIVERABLE).exists()
    assert not Message.objects.exclude(pk=sent.message_id).filter(protocol="").exists()


def test_mail_from_the_null_sender_that_is_no_report_changes_nothing(person, sent):
    person("postmaster@client.test").send("postmaster@localhost", b"\r\n\r\nI am away", sender="")

    sent.refresh_from_db()
    assert sent.status == Status.DONE


def test_report_of_mail_that_is_not_ours_changes_nothing(person, sent):
    other = bounce().replace(b"<news@", b"<olds@")

    person("postmaster@client.test").send("postmaster@localhost", other, sender="")

    sent.refresh_from_db()
    assert sent.status == Status.DONE
