"""What the relay does not send, and what it learns from refusals."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import OperationalError, transaction
from django.db.backends.signals import connection_created

from mailapp import outbox
from mailapp.models import OUTGOING, Attempt, Delivery, Message, Status, Suppression
from mailapp.relay import wire
from mailapp.relay.work import IN_HAND
from tests.integration.relaying import running_relay
from tests.integration.sinks import STRICT, Sink, sink
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

RAW = b"From: news@localhost\r\nSubject: News\r\n\r\nHello\r\n"


@pytest.fixture
def server() -> Iterator[Sink]:
    """A smart host that refuses nobody@client.test as unknown."""
    with sink(STRICT) as server:
        yield server


@pytest.fixture
def relay(server: Sink, settings: Any) -> Callable[[], None]:
    """Run a relay until nothing is due."""

    def run() -> None:
        settings.MAIL = {**settings.MAIL, "RELAY": server.address, "RELAY_CONNECTIONS": 1}
        waiting = Delivery.objects.filter(queue=OUTGOING, status__in=["queued", "claimed"])
        with running_relay():
            wait_until(lambda: not waiting.exists())

    return run


def post(*recipients: str, **how: bool) -> None:
    with transaction.atomic():
        outbox.post(RAW, sender="news@localhost", recipients=recipients, **how)


def suppress(*addresses: str) -> None:
    Suppression.objects.bulk_create(Suppression(address=address) for address in addresses)


def statuses(queue: str = OUTGOING) -> dict[str, str]:
    return dict(Delivery.objects.filter(queue=queue).values_list("recipient", "status"))


def recipients(server: Sink) -> list[str]:
    return [recipient.decode() for recipient, _ in server.mails]


def test_address_that_is_refused_as_unknown_is_suppressed(relay):
    post("nobody@client.test", "bob@client.test", verp=True)

    relay()

    assert statuses() == {"nobody@client.test": Status.FAILED, "bob@client.test": Status.DONE}
    suppression = Suppression.objects.get()
    assert suppression.address == "nobody@client.test"
    assert suppression.reason.startswith("550 5.1.1 Nobody")


def test_each_delivery_with_verp_is_a_transaction_of_its_own(relay, server):
    post("ann@client.test", "bob@client.test", "eve@client.test", verp=True)

    relay()

    [wire] = server.wire
    senders = re.findall(rb"MAIL FROM:<(.*?)>", wire)
    assert senders == [row.return_path.encode() for row in Delivery.objects.order_by("id")]
    assert all(sender.startswith(b"bounce+") for sender in senders)


@pytest.mark.parametrize(
    ("sender", "host"),
    [("news@second.test", "second.test"), ("news@elsewhere.test", "first.test")],
)
def test_return_path_is_at_a_host_of_ours_so_that_bounces_come_home(settings, sender, host):
    settings.MAIL = {**settings.MAIL, "HOSTS": ["first.test", "second.test"]}

    outbox.post(RAW, sender=sender, recipients=["ann@client.test"], verp=True)

    assert Delivery.objects.get().return_path.endswith(f"@{host}")


def test_nobody_is_told_of_a_failure_that_the_delivery_with_verp_says(relay):
    post("nobody@client.test", verp=True)

    relay()

    assert Message.objects.count() == 1


def test_mail_to_a_suppressed_address_fails_without_a_try(relay, server):
    suppress("ann@client.test", "eve@client.test")

    post("Ann@client.test", "eve@client.test", verp=True)
    relay()

    assert statuses() == {"Ann@client.test": Status.FAILED, "eve@client.test": Status.FAILED}
    assert set(Attempt.objects.values_list("reply", flat=True)) == {str(wire.SUPPRESSED)}
    assert server.wire == []
    assert Message.objects.count() == 1


def test_others_get_the_mail_that_a_suppressed_address_does_not(relay, server):
    suppress("ann@client.test")

    post("bob@client.test", "ann@client.test", "eve@client.test")
    relay()

    assert statuses()["bob@client.test"] == statuses()["eve@client.test"] == Status.DONE
    assert statuses()["ann@client.test"] == Status.FAILED
    assert b"RCPT TO:<ann@client.test>" not in b"".join(server.wire)


@pytest.fixture
def failing_once() -> Iterator[Callable[[str], list[str]]]:
    """Have the database fail at the first statement of new connections with this text in it."""
    failed: list[str] = []
    watched: list[Any] = []

    def fail_at(text: str) -> list[str]:
        def fail(execute: Callable[..., Any], statement: str, *rest: Any) -> Any:
            if text in statement and not failed:
                failed.append(statement)
                raise OperationalError("the connection is lost")
            return execute(statement, *rest)

        def watch(connection: Any, **kwargs: Any) -> None:
            connection.execute_wrappers.append(fail)

        watched.append(watch)
        connection_created.connect(watch)
        return failed

    yield fail_at
    for watch in watched:
        connection_created.disconnect(watch)


def test_suppressed_address_gets_nothing_after_the_database_failed(
    relay, server, settings, failing_once, caplog
):
    settings.MAIL = {**settings.MAIL, "POLL_SECONDS": 0.01}
    suppress("ann@client.test")
    failed = failing_once("FROM mailapp_suppression")

    post("ann@client.test", *(f"reader-{number}@client.test" for number in range(IN_HAND // 2)))
    relay()

    assert len(failed) == 1
    assert "The database does not answer" in caplog.text
    ends = statuses()
    assert ends.pop("ann@client.test") == Status.FAILED
    assert set(ends.values()) == {Status.DONE}
    assert b"RCPT TO:<ann@client.test>" not in b"".join(server.wire)


def test_sender_of_a_single_mail_is_told_of_a_suppressed_address(relay):
    suppress("ann@client.test")

    post("ann@client.test")
    relay()

    report = Message.objects.get(sender="")
    assert str(wire.SUPPRESSED).encode() in report.raw


def test_mail_that_goes_even_to_suppressed_addresses_is_sent(relay, server):
    suppress("ann@client.test")

    post("ann@client.test", even_suppressed=True)
    relay()

    assert recipients(server) == ["ann@client.test"]


def test_mail_that_fails_since_its_address_is_suppressed_does_not_count(relay, settings):
    settings.MAIL = {**settings.MAIL, "SUPPRESS_AFTER": 1}
    suppress("ann@client.test")
    post("ann@client.test", verp=True)
    relay()
    Suppression.objects.all().delete()

    post("ann@client.test", verp=True)
    relay()

    assert not Suppression.objects.exists()
