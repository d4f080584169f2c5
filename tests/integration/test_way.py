"""What the log says of a mail's way: one line a step, all under the number of that mail."""

from __future__ import annotations

import logging

import pytest

from mailapp import way
from mailapp.errors import SMTPError
from mailapp.models import Delivery, NewMail, Status
from mailapp.routing import route, stateless
from tests.integration.relaying import settled
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def said(caplog):
    """Return the lines that were said, and forget them."""
    caplog.set_level(logging.INFO, "mailapp.way")

    def lines() -> list[str]:
        found = [record.getMessage() for record in caplog.records if record.name == "mailapp.way"]
        caplog.clear()
        return found

    return lines


@route("(name)@(host)", name=".+")
def START(message, name, host):
    return WAITING


@route("(name)@(host)", name=".+")
def WAITING(message, name, host):
    return None


@stateless
@route("(name)@(host)", name=".+")
def LOG(message, name, host):
    message.note = "Noted\nand read"


@route("(name)@(host)", name=".+")
def refuse(message, name, host):
    raise SMTPError(550, "The list is closed")


refuse.__name__ = "START"


@route("(name)@(host)", name=".+")
def fail(message, name, host):
    raise ValueError("not now")


fail.__name__ = "START"


@route("(name)@(host)", name=".+")
def lose(message, name, host):
    Delivery.objects.filter(pk=message.delivery.pk).delete()
    return lose


lose.__name__ = "START"


def test_move_from_state_to_state_is_said_with_the_handler(handle, delivery, work, said):
    handle(START, WAITING)
    first = delivery("news@localhost")

    work()
    second = delivery("news@localhost")
    work()

    assert said() == [
        f"mail {first.message_id} handled for <news@localhost> by news, START -> WAITING",
        f"mail {second.message_id} handled for <news@localhost> by news, WAITING -> WAITING",
    ]


def test_function_without_a_state_is_said_with_its_note(handle, delivery, work, said):
    handle(LOG)
    mail = delivery("news@localhost")

    work()

    [line] = said()
    assert line == f"mail {mail.message_id} handled for <news@localhost> by news: Noted and read"


def test_mail_that_fails_is_deferred_or_held_is_said_with_the_reason(handle, delivery, work, said):
    for function, expected in (
        (refuse, "failed for <news@localhost> by news: 550 5.0.0 The list is closed"),
        (fail, "deferred for <news@localhost> by news: ValueError: not now"),
    ):
        handle(function)
        mail = delivery("news@localhost", sender=f"{expected[:6]}@client.test")

        work()

        assert said() == [f"mail {mail.message_id} {expected}"]


def test_mail_that_nobody_takes_is_held(handle, delivery, work, said):
    handle(START)
    mail = delivery("news@elsewhere.test")

    work()

    [line] = said()
    assert line.startswith(f"mail {mail.message_id} held for <news@elsewhere.test>: ")


def test_nothing_is_said_of_what_was_rolled_back(handle, delivery, work, said):
    handle(lose)
    delivery("news@localhost")

    work()

    assert said() == []


@pytest.mark.parametrize(
    ("reply", "step"),
    [("250 Taken", "sent"), ("451 Later", "deferred"), ("550 5.1.1 Nobody", "failed")],
)
def test_what_the_smart_host_replied_is_said(serve, relay, post, said, reply, step):
    server = serve(RCPT=reply) if step != "sent" else serve(dot=reply)
    mail = post("reader@client.test")

    relay(server.address)

    assert settled(mail).attempts == 1
    [line] = wait_until(said)[:1]
    assert line.startswith(f"mail {mail.pk} {step} to <reader@client.test>: {reply}")


def test_what_a_mail_caused_goes_by_its_number(delivery, message, serve, relay, said):
    cause = delivery("news@localhost", queue="undeliverable")
    answer = message(
        recipients=["reader@client.test"], queue="outgoing", protocol="", cause=cause.pk
    )

    relay(serve(dot="250 Taken").address)

    assert settled(answer).status == Status.DONE
    assert wait_until(said) == [
        f"mail {cause.message_id} sent what it caused, mail {answer.pk}, "
        "to <reader@client.test>: 250 Taken"
    ]


def test_line_leads_to_the_admin_where_there_is_one(settings, caplog):
    settings.MAIL = {**settings.MAIL, "ADMIN_URL": "https://mail.example.com/admin/"}
    caplog.set_level(logging.INFO, "mailapp.way")

    mail = NewMail(b"", "", [f"r{n}@localhost" for n in range(12)], peer="192.0.2.1")
    way.accepted(12, mail)

    [record] = caplog.records
    assert record.mail["url"] == "https://mail.example.com/admin/mailapp/message/12/change/"
    assert "and 2 more: 0 octets" in record.getMessage()


def test_nothing_is_said_below_the_level(caplog):
    caplog.set_level(logging.WARNING, "mailapp.way")

    way.accepted(12, NewMail(b"", "", ["reader@localhost"]))

    assert caplog.records == []
