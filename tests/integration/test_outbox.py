"""Outgoing mail is a row: in whose transaction, and for whom."""

from __future__ import annotations

import contextlib

import pytest
from django.db import transaction

from mailapp import outbox
from mailapp.errors import BadAddress
from mailapp.models import OUTGOING, Delivery, Message, Queue
from mailapp.wakeup import listen

RAW = b"From: you@example.com\r\nSubject: Hello\r\n\r\nHello.\r\n"


def post(*recipients: str, sender: str = "you@example.com") -> None:
    outbox.post(RAW, sender=sender, recipients=recipients)


@pytest.mark.django_db
def test_one_message_has_a_delivery_for_each_recipient(delivery):
    cause = delivery()

    outbox.post(
        RAW, sender="you@example.com", recipients=["a@client.test", "b@client.test"], cause=cause.pk
    )

    message = Message.objects.get(protocol="")
    assert message.raw == RAW
    assert (message.sender, message.subject, message.cause) == ("you@example.com", "Hello", cause)
    assert {(each.recipient, each.queue_id, each.person) for each in message.deliveries.all()} == {
        ("a@client.test", OUTGOING, ""),
        ("b@client.test", OUTGOING, ""),
    }


@pytest.mark.django_db(transaction=True)
def test_mail_is_rolled_back_with_the_callers_transaction():
    @transaction.atomic
    def post_and_fail() -> None:
        post("reader@client.test")
        raise LookupError

    with pytest.raises(LookupError):
        post_and_fail()

    assert not Message.objects.exists()


@pytest.mark.django_db
def test_mail_for_nobody_is_not_stored():
    post()

    assert not Message.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    "address",
    [
        "",
        "reader",
        "reader@client.test\r\nRCPT TO:<other@client.test>",
        "reader@client.test> SIZE=1",
        "reader@client.test>\0",
        "two words@client.test",
        "reader@client.test, other@client.test",
        "Reader <reader@client.test>",
        "<reader@client.test>",
        "reader@client..test",
        "reader@",
        "@client.test",
        "a" * 300 + "@client.test",
    ],
)
def test_what_is_no_address_is_refused_and_nothing_is_stored(address):
    with pytest.raises(BadAddress):
        post("reader@client.test", address)

    assert not Message.objects.exists()


@pytest.mark.django_db
def test_sender_that_is_no_address_is_refused():
    with pytest.raises(BadAddress):
        post("reader@client.test", sender="a@b\r\nc")


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("address", "stored"),
    [
        ("Reader@Client.TEST", "Reader@client.test"),
        ("reader@bücher.example", "reader@xn--bcher-kva.example"),
        ('"a b"@client.test', '"a b"@client.test'),
    ],
)
def test_recipient_is_stored_as_smtp_will_say_it(address, stored):
    post(address)

    assert Delivery.objects.get().recipient == stored


@pytest.mark.django_db
def test_who_is_named_twice_gets_a_mail_once():
    post("reader@client.test", "reader@Client.TEST", "Reader@client.test")

    stored = Delivery.objects.order_by("id").values_list("recipient", flat=True)
    assert list(stored) == ["reader@client.test", "Reader@client.test"]


@pytest.mark.django_db
def test_null_sender_may_write():
    post("reader@client.test", sender="")

    assert Message.objects.get().sender == ""


@pytest.mark.django_db(transaction=True)
def test_relay_is_woken_by_the_commit(settings, tmp_path):
    settings.MAIL = {**settings.MAIL, "RUN_DIR": str(tmp_path)}

    with listen(OUTGOING) as bell:
        post("reader@client.test")
        bell.wait(3600)  # returns, or the test never ends

    assert Delivery.objects.filter(queue=OUTGOING).exists()


@pytest.mark.django_db
def test_what_a_handler_posts_waits_for_its_state(delivery):
    cause = delivery()
    Queue.objects.create(name="slow")

    with outbox.collecting(cause.pk) as collected:
        post("reader@client.test")
        outbox.pass_on(cause, "slow")
        stored_within = Delivery.objects.exclude(pk=cause.pk).exists()
    outbox.store(collected)

    assert not stored_within
    assert Delivery.objects.filter(queue__in=["slow", OUTGOING]).count() == 2
    assert Message.objects.get(protocol="").cause == cause


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("around", [transaction.atomic, contextlib.nullcontext])
def test_what_a_handler_rolls_back_by_itself_is_not_sent(delivery, around):
    cause = delivery()
    Queue.objects.create(name="slow")

    with around():
        with outbox.collecting(cause.pk) as collected:
            post("before@client.test")
            with contextlib.suppress(LookupError), transaction.atomic():
                post("undone@client.test")
                outbox.pass_on(cause, "slow")
                raise LookupError
            with transaction.atomic():
                post("after@client.test")
        outbox.store(collected)

    assert {each.recipient for each in Delivery.objects.exclude(pk=cause.pk)} == {
        "before@client.test",
        "after@client.test",
    }


@pytest.mark.django_db
def test_mail_after_a_handler_is_stored_at_once_again(delivery):
    with outbox.collecting(delivery().pk):
        pass

    post("reader@client.test")

    assert Message.objects.filter(protocol="").exists()


@pytest.mark.django_db
def test_many_recipients_take_as_many_queries_as_one(django_assert_num_queries):
    post("first@client.test")

    with django_assert_num_queries(_queries_of_one()):
        post(*(f"reader-{number}@client.test" for number in range(500)))


def _queries_of_one() -> int:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as queries:
        post("one@client.test")
    return len(queries)
