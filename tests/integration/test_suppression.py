"""Which addresses are written to no more, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone

from mailapp.models import OUTGOING, Delivery, Status, Suppression

HARD = "550 5.1.1 User unknown"
SOFT = "552 5.2.2 Mailbox full"


@pytest.fixture
def fail(delivery: Callable[..., Delivery]) -> Callable[..., Delivery]:
    """Have a mail to an address fail, and note it: `fail("reader@client.test", "550 No")`."""

    def note(recipient: str, reply: str) -> Delivery:
        failed = delivery(recipient, queue=OUTGOING, protocol="")
        Delivery.objects.filter(pk=failed.pk).update(status=Status.FAILED, due_at=None, reply=reply)
        Suppression.objects.note_failures({failed: reply})
        return failed

    return note


@pytest.mark.parametrize("status", ["5.1.1", "5.1.2", "5.1.6", "5.1.10", "5.2.1"])
def test_address_that_is_not_there_is_suppressed_at_once(fail, status):
    failed = fail("Reader@client.test", f"550 {status} No such mailbox")

    suppression = Suppression.objects.get()
    assert suppression.address == "reader@client.test"
    assert suppression.reason == f"550 {status} No such mailbox"
    assert suppression.delivery == failed
    assert Suppression.objects.is_suppressed("READER@client.test")


def test_address_that_fails_for_now_is_suppressed_after_so_many(fail, settings):
    settings.MAIL = {**settings.MAIL, "SUPPRESS_AFTER": 3}
    fail("reader@client.test", SOFT), fail("reader@client.test", SOFT)
    assert not Suppression.objects.is_suppressed("reader@client.test")

    fail("Reader@client.test", "550 No")

    assert Suppression.objects.is_suppressed("reader@client.test")


def test_failures_of_long_ago_do_not_count(fail, settings):
    settings.MAIL = {**settings.MAIL, "SUPPRESS_AFTER": 2, "SUPPRESS_WITHIN_DAYS": 14}
    fail("reader@client.test", SOFT)
    Delivery.objects.update(created_at=timezone.now() - timedelta(days=15))

    fail("reader@client.test", SOFT)

    assert not Suppression.objects.is_suppressed("reader@client.test")


@pytest.mark.parametrize(
    "reply",
    [
        "550 5.7.1 Looks like spam",
        "554 5.6.0 Bad content",
        "553 5.1.8 Bad sender",
        "451 4.3.0 Later",
    ],
)
def test_what_is_not_about_the_address_never_counts(fail, settings, reply):
    settings.MAIL = {**settings.MAIL, "SUPPRESS_AFTER": 1}

    fail("reader@client.test", reply)

    assert not Suppression.objects.exists()


def test_suppression_expires_and_begins_anew(fail):
    fail("reader@client.test", HARD)
    days_left = Suppression.objects.get().expires_at - timezone.now()
    assert timedelta(days=89) < days_left < timedelta(days=90)
    Suppression.objects.update(expires_at=timezone.now())
    assert not Suppression.objects.is_suppressed("reader@client.test")

    fail("reader@client.test", HARD)

    assert Suppression.objects.is_suppressed("reader@client.test")


def test_lift_leaves_what_an_operator_wants(fail):
    fail("reader@client.test", HARD)
    Suppression.objects.create(address="ann@client.test", cause=Suppression.Cause.OPERATOR)
    fail("ann@client.test", HARD)

    for address in ["Reader@client.test", "ann@client.test"]:
        Suppression.objects.lift(address)

    assert [each.address for each in Suppression.objects.all()] == ["ann@client.test"]


def test_many_failures_are_noted_with_a_few_queries(delivery, django_assert_max_num_queries):
    failed = [
        delivery(f"reader{number}@client.test", queue=OUTGOING, protocol="") for number in range(50)
    ]

    with django_assert_max_num_queries(3):
        Suppression.objects.note_failures(dict.fromkeys(failed, HARD))

    assert Suppression.objects.count() == 50
