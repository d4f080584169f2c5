"""The handlers that come with the framework, switched on by an operator."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from mailapp.models import UNDELIVERABLE, Delivery, Handler, Queue
from mailapp.registry import handler_modules
from mailapp.testing.post import Refused

RAW = b"Subject: Hello\r\n\r\nAs it  came \r\n"


@pytest.fixture
def switch_on(db: None) -> Callable[[str], None]:
    """Do what an operator does in the admin: `switch_on("log")`."""

    def switch(name: str) -> None:
        assert Handler.objects.filter(module=f"mailapp.handlers.{name}").update(enabled=True)

    return switch


@pytest.mark.parametrize("name", ["log", "forward", "queue"])
def test_handler_is_off_until_it_is_switched_on_and_then_takes_every_address(
    person, switch_on, name
):
    reader = person("reader@client.test")
    with pytest.raises(Refused, match=r"550 5\.1\.1"):
        reader.say("any-body@localhost")

    switch_on(name)

    assert reader.say("any-body@localhost").startswith("250")
    assert not Delivery.objects.filter(queue=UNDELIVERABLE).exists()
    with pytest.raises(Refused, match=r"550 5\.7\.1"):
        reader.say("any-body@elsewhere.test")


@pytest.mark.parametrize("name", ["log", "forward", "queue"])
def test_description_warns_that_every_address_is_accepted(name):
    module = handler_modules()[f"mailapp.handlers.{name}"]

    assert "every address there is accepted" in " ".join(module.description.split())


def test_log_writes_one_line_for_each_mail(person, switch_on, caplog):
    switch_on("log")
    caplog.set_level(logging.INFO, "mailapp.handlers.log")

    person("reader@client.test").send("any-body@localhost", RAW)
    person("reader@client.test").send(
        "any-body@localhost", b"Subject: =?utf-8?q?a=0Ab=E2=80=AE?=\r\n\r\n", sender=""
    )

    said = [each.message for each in caplog.records if each.name == "mailapp.handlers.log"]
    assert said == [
        "reader@client.test -> any-body@localhost, 32 octets: Hello",
        "<> -> any-body@localhost, 39 octets: a b[U+202E]",
    ]


@pytest.mark.parametrize("sender", ["reader@client.test", ""])
def test_forward_sends_on_what_came_to_whom_it_was_for(person, switch_on, sender):
    switch_on("forward")

    person("reader@client.test").send("any-body@localhost", RAW, sender=sender)

    forwarded = person("any-body@localhost").expect("Hello", sender=sender)
    assert forwarded.sender == sender
    assert forwarded.raw.endswith(RAW)


def test_queue_keeps_a_copy_that_nobody_works(person, switch_on, settings):
    switch_on("queue")
    settings.MAIL = {**settings.MAIL, "COPIES_QUEUE": "looked-at"}

    person("reader@client.test").send("any-body@localhost", RAW)
    person("reader@client.test").send("any-body@localhost", RAW)

    assert Queue.objects.get(name="looked-at").purpose == Queue.Purpose.HELD
    copies = Delivery.objects.filter(queue="looked-at")
    assert [copy.status for copy in copies] == [Delivery.Status.QUEUED] * 2
    assert copies[0].message.raw == RAW


@pytest.mark.parametrize(
    "name", ["incoming", "outgoing", "undeliverable", "", "two words", "q" * 49]
)
def test_queue_for_copies_must_not_be_one_where_mail_is_worked(name):
    from mailapp.conf import problems

    [problem] = problems({"COPIES_QUEUE": name})

    assert problem.startswith('MAIL["COPIES_QUEUE"]')
