"""The command that says which functions would take a mail, and why."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from mailapp.models import Delivery, Handler
from mailapp.routing import (
    accepts,
    bounces,
    from_queue,
    in_order,
    non_atomic,
    route,
    state_key_generator,
    stateless,
)

pytestmark = pytest.mark.django_db

READER = "reader@client.test"


def mailroutes(*arguments: str, **options: Any) -> str:
    """Call the command and return what it printed, whatever its exit code."""
    output = io.StringIO()
    try:
        call_command("mailroutes", *arguments, stdout=output, **options)
    except SystemExit as exited:
        output.write(f"exit code {exited.code}\n")
    return output.getvalue()


def why(text: str) -> dict[str, str]:
    """What is said of each function, from a table of candidates."""
    _, _, table, *_ = text.split("\n\n")
    rows = [line.split(maxsplit=3) for line in table.splitlines()[1:]]
    return {function: reason.partition("  ")[0] for _, _, function, reason in rows}


@route("news@(host)")
def START(message, host):
    return READING


@route("news@(host)")
def READING(message, host):
    return None


@stateless
@route("(name)@(host)", name="[a-z]+")
def LOG(message, name, host):
    return None


def test_table_has_each_route_in_order_and_what_the_decorators_say(handle):
    @in_order
    @non_atomic
    @route("(name)-(wish)@(host)", name="[a-z]+", wish="ask")
    @route("(name)@(host)", name="news")
    def START(message, host, name, wish=""):
        return START

    @bounces
    @route("(name)@(host)", name=".+")
    def BOUNCED(message, host, name):
        return None

    handle(later=[BOUNCED], first=[START])
    Handler.objects.filter(module="first").update(order=-1)
    Handler.objects.filter(module="later").update(enabled=False)

    hosts, table = mailroutes().strip().split("\n\n")

    assert hosts == "(host) is localhost"
    assert [line.split() for line in table.splitlines()] == [
        ["ORDER", "HANDLER", "FUNCTION", "ROUTE"],
        *[
            ["-1", "first", "START", route, "in_order", "non_atomic", *captures]
            for route, captures in {
                "(name)-(wish)@(host)": ["name=[a-z]+", "wish=ask"],
                "(name)@(host)": ["name=news"],
            }.items()
        ],
        ["0", "later", "BOUNCED", "(name)@(host)", "off", "bounces", "name=.+"],
    ]


def test_function_of_another_queue_is_listed_and_takes_no_mail_that_comes_in(handle):
    @from_queue("index")
    @stateless
    @route("news@(host)")
    def INDEX(message, host):
        return None

    handle(START, INDEX)

    assert "stateless from_queue=index\n" in mailroutes()
    assert list(why(mailroutes("news@localhost"))) == ["START"]


def test_table_for_programs(handle):
    handle(START)

    assert json.loads(mailroutes("--json")) == [
        {
            "order": 0,
            "handler": "news",
            "enabled": True,
            "function": "START",
            "route": "news@(host)",
            "captures": {},
            "marks": [],
        }
    ]


def test_function_of_the_persons_state_runs(handle, message, work):
    handle(START, READING)
    message(recipients=["news@localhost"], sender=READER)
    work()

    said = mailroutes("news@localhost", sender=READER)

    assert "Receiver: 250 2.1.5 Recipient OK" in said
    assert why(said) == {
        "START": f"no: {READER} is in READING",
        "READING": f"runs: {READER} is in READING",
    }
    assert said.endswith("news.READING returns the next state.\n")


def test_without_a_person_it_is_about_somebody_new(handle, message, work):
    handle(START, READING)
    message(recipients=["news@localhost"], sender=READER)
    work()

    assert why(mailroutes("news@localhost"))["START"].startswith("runs: ")


def test_first_handler_in_order_takes_it(handle):
    def starting():
        @route("news@(host)")
        def START(message, host):
            return START

        return START

    handle(first=[starting()], second=[starting()])

    said = mailroutes("news@localhost", "--json", sender=READER)

    first, second = json.loads(said)["candidates"]
    assert (first["handler"], first["runs"]) == ("first", True)
    assert (second["handler"], second["why"]) == (
        "second",
        "no: a handler before it takes the mail",
    )


def test_stateless_functions_run_beside_it(handle):
    handle(news=[START], log=[LOG])

    assert why(mailroutes("news@localhost")) == {
        "START": "runs: stranger@example.invalid is in START",
        "LOG": "runs, whatever the state",
    }


def test_where_only_they_run_no_state_moves(handle):
    handle(LOG)

    assert mailroutes("views@localhost").endswith("No state moves.\n")


def test_handler_that_is_off_would_have_taken_it(handle):
    handle(START)
    Handler.objects.filter(module="news").update(enabled=False)

    said = mailroutes("news@localhost")

    assert "Receiver: 550 5.1.1 No such recipient here" in said
    assert why(said) == {"START": "no: the handler is off"}
    assert said.endswith("It is refused.\nexit code 1\n")


def test_other_host_is_refused(handle):
    handle(START)

    said = mailroutes("news@elsewhere.test")

    assert "Receiver: 550 5.7.1 " in said
    assert said.endswith("elsewhere.test is none of localhost.\nexit code 1\n")


def test_postmaster_without_a_host_is_the_one_here_as_the_receiver_has_it(handle):
    handle(START)

    assert mailroutes("postmaster") == mailroutes("postmaster@localhost")
    assert "Receiver: 250 2.1.5 Recipient OK" in mailroutes("postmaster")


def test_recipient_that_accepts_does_not_know_is_refused(handle):
    @accepts
    def is_known(name, host):
        return name == "news"

    @route("(name)@(host)", name="[a-z]+")
    def START(message, name, host):
        return START

    handle(START, is_known)

    assert why(mailroutes("news@localhost"))["START"].startswith("runs")
    assert why(mailroutes("views@localhost")) == {
        "START": "no: its @accepts does not know the recipient"
    }


def test_state_without_a_function_is_held(handle, message, work):
    handle(START, READING)
    message(recipients=["news@localhost"], sender=READER)
    work()
    handle(START)

    said = mailroutes("news@localhost", sender=READER)

    assert said.endswith("Nobody takes it: it is held in the queue undeliverable.\nexit code 1\n")


@pytest.mark.parametrize("null", ["", "<>"])
def test_bounce_reaches_no_state(handle, null):
    @bounces
    @route("(name)@(host)", name=".+")
    def BOUNCED(message, host, name):
        return None

    handle(START, BOUNCED)

    said = mailroutes("news@localhost", sender=null)

    assert "news@localhost from <>" in said
    assert why(said) == {
        "START": "no: the null sender is in no state",
        "BOUNCED": "runs: this is a bounce",
    }


def test_key_of_a_conversation_is_asked_for(handle, message, work):
    @state_key_generator
    def by_list(module_name, message):
        return message.recipient.partition("@")[0]

    @route("(name)@(host)", name="news|views")
    def START(message, name, host):
        return READING

    @route("(name)@(host)", name="news|views")
    def READING(message, name, host):
        return None

    handle(START, READING, by_list)
    message(recipients=["news@localhost"], sender=READER)
    work()

    assert why(mailroutes("news@localhost", sender=READER))["READING"].startswith("runs")
    assert why(mailroutes("views@localhost", sender=READER))["START"].startswith("runs")


def test_key_that_only_the_mail_tells_is_said_in_one_line(handle):
    @state_key_generator
    def by_ticket(module_name, message):
        return message.header("X-Ticket").split("-")[1]

    handle(START, by_ticket)

    with pytest.raises(CommandError, match=r"Only the mail itself says .*: news: IndexError"):
        mailroutes("news@localhost")


def test_nothing_is_run_or_stored(handle):
    @route("news@(host)")
    def START(message, host):
        raise AssertionError

    handle(START)
    Handler.objects.all().delete()
    gone = Handler.objects.create(module="other.handlers.gone", order=1)

    listed, explained = mailroutes(), mailroutes("news@localhost", sender=READER)

    assert "news@(host)" in listed
    assert "START returns the next state" in explained
    assert not Delivery.objects.exists()
    assert list(Handler.objects.values_list("pk", "found")) == [(gone.pk, True)]


@pytest.mark.parametrize("address", ["", "news", "two words@localhost", "news@localhost>"])
def test_what_is_no_address_is_said_in_one_line(handle, address):
    handle(START)

    with pytest.raises(CommandError, match=r"^This is not an address .*$"):
        mailroutes(address)


def test_person_without_an_address_says_nothing(handle):
    handle(START)

    with pytest.raises(CommandError, match=r"^Say where the mail goes, too"):
        mailroutes(sender=READER)
