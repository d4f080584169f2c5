"""Mail of one conversation that waits for its retry, and the mail behind it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext

from mailapp import registry, worker
from mailapp.errors import SMTPError
from mailapp.lifecycle import Life, release_dead
from mailapp.models import (
    INCOMING,
    Attempt,
    Conversation,
    Delivery,
    Place,
    Process,
    Queue,
    Status,
)
from mailapp.routing import in_order, non_atomic, route, state_key_generator
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

NUMBER = "[0-9]+|bad[0-9]*"


@pytest.fixture(autouse=True)
def mail_settings(settings):
    settings.MAIL = {**settings.MAIL, "RETRY_SECONDS": [10.0, 60.0], "POLL_SECONDS": 3600}


class Desk:
    """A handler that notes what it is given, and fails on what is bad until it is mended."""

    def __init__(self, *marks: Callable[..., Any], error: Exception | None = None) -> None:
        self.seen: list[str] = []
        self.tried: list[str] = []
        self.broken = True
        self.error = error or LookupError("no such desk")
        self.marks = marks

    def states(self) -> list[Any]:
        @state_key_generator
        def by_list(module_name, message):
            return message.recipient.partition("-")[0]

        @route("(list)-(number)@(host)", list="[a-z]+", number=NUMBER)
        def START(message, list, number, host):
            self.tried.append(number)
            if self.broken and number.startswith("bad"):
                raise self.error
            self.seen.append(number)

        for mark in self.marks:
            START = mark(START)
        return [START, by_list]


@pytest.fixture
def mail(message):
    """Store mails, all from one person unless it is said otherwise: `mail("bad", "1")`."""

    def store(*numbers: str, to: str = "news", **fields: Any) -> list[Delivery]:
        stored = [message(recipients=[f"{to}-{number}@localhost"], **fields) for number in numbers]
        return [each.deliveries.get() for each in stored]

    return store


def make_due(*deliveries: Delivery) -> None:
    """Let the time of their retry come."""
    waiting = Delivery.objects.filter(pk__in=[each.pk for each in deliveries])
    waiting.filter(status=Status.DEFERRED).update(due_at=F("created_at"))


def statuses(*deliveries: Delivery) -> list[str]:
    return [str(Delivery.objects.get(pk=each.pk).status) for each in deliveries]


def test_deferred_mail_holds_nobody_back_by_default(handle, mail, work):
    desk = Desk()
    handle(*desk.states())
    mail("bad", "1", "2")

    work()

    assert desk.seen == ["1", "2"]


@pytest.mark.parametrize("atomic", [True, False])
def test_deferred_mail_holds_back_what_came_later(handle, mail, work, atomic):
    desk = Desk(in_order, *([] if atomic else [non_atomic]))
    handle(*desk.states())
    bad, *later = mail("0", "bad", "1", "2")[1:]
    work()
    later += mail("3")
    work()

    assert desk.seen == ["0"]
    assert statuses(bad, *later) == ["deferred"] * 4

    desk.broken = False
    make_due(bad)
    work()

    assert desk.seen == ["0", "bad", "1", "2", "3"]
    assert statuses(bad, *later) == ["done"] * 4
    assert not Place.objects.exists()


def test_mail_that_comes_with_the_retry_does_not_overtake_those_that_wait(handle, mail, work):
    desk = Desk(in_order)
    handle(*desk.states())
    bad, *_ = mail("bad", "1")
    work()

    desk.broken = False
    make_due(bad)
    mail("2")  # claimed at once with the retry
    work()

    assert desk.seen == ["bad", "1", "2"]
    assert not Place.objects.exists()


def test_waiting_counts_as_no_try(handle, mail, work):
    desk = Desk(in_order)
    handle(*desk.states())
    _, later = mail("bad", "1")

    for _ in range(5):
        work()
        make_due(later)

    later.refresh_from_db()
    assert (later.attempts, later.reply) == (0, "Waits for an earlier mail of its conversation")
    assert not Attempt.objects.filter(delivery=later).exists()
    assert desk.tried == ["bad"]


def test_mail_of_other_conversations_goes_on(handle, mail, work):
    desk = Desk(in_order)
    handle(*desk.states())
    mail("bad")
    mail("1", to="views")
    mail("2", sender="other@client.test")

    work()

    assert desk.seen == ["1", "2"]


def test_mail_that_came_earlier_is_not_held_back(handle, mail, work):
    desk = Desk(in_order)
    handle(*desk.states())
    first, second = mail("bad1", "bad2")
    work()
    desk.broken = False
    make_due(second)

    work()
    assert statuses(first, second) == ["deferred", "deferred"]

    make_due(first)
    work()
    assert desk.seen == ["bad1", "bad2"]


def test_mail_behind_one_that_fails_again_waits_again(handle, mail, work):
    desk = Desk(in_order)
    handle(*desk.states())
    bad, *later = mail("bad", "1", "2")
    work()

    make_due(bad, *later)
    work()

    assert desk.seen == []
    assert statuses(bad, *later) == ["deferred"] * 3


def test_second_bad_mail_begins_a_line_of_its_own(handle, mail, work):
    desk = Desk(in_order)
    handle(*desk.states())
    first, *_, second, last = mail("bad1", "1", "bad2", "2")
    work()

    for each in (first, second):
        for _ in range(2):
            make_due(each)
            work()

    assert desk.seen == ["1", "2"]
    assert statuses(first, second, last) == ["held", "held", "done"]


def test_held_mail_holds_nobody_back(handle, mail, work):
    desk = Desk(in_order)
    handle(*desk.states())
    bad, later = mail("bad", "1")

    for _ in range(3):
        work()
        make_due(bad)

    assert statuses(bad, later) == ["held", "done"]


def test_failed_mail_holds_nobody_back(handle, mail, work):
    desk = Desk(in_order, error=SMTPError(450, "Later"))
    handle(*desk.states())
    bad, later = mail("bad", "1")
    work()
    assert desk.seen == []

    desk.error = SMTPError(550, "Never")
    make_due(bad)
    work()

    assert statuses(bad, later) == ["failed", "done"]


def test_first_mail_that_nobody_takes_any_more_holds_nobody_back(handle, mail, work):
    desk = Desk(in_order)
    handle(*desk.states())
    bad, later = mail("bad", "1")
    work()

    Conversation.objects.update(state="CLOSED", version=F("version") + 1)
    make_due(bad)
    work()

    assert statuses(bad, later) == ["held", "held"]
    assert not Place.objects.exists()


def test_first_mail_that_killed_three_processes_holds_nobody_back(
    handle, mail, work, process, settings
):
    settings.MAIL = {**settings.MAIL, "RETRY_SECONDS": [10.0] * 5}
    desk = Desk(in_order)
    handle(*desk.states())
    bad, later = mail("bad", "1")
    work()

    for _ in range(3):
        make_due(bad)
        dying = process()
        assert Delivery.objects.claim(INCOMING, dying, 1) == [bad]
        dying.stop()
        release_dead()
    work()

    assert desk.tried == ["bad", "1"]
    assert statuses(bad, later) == ["held", "done"]
    assert not Place.objects.exists()


@pytest.mark.parametrize("again", [0, 1], ids=["the first", "one who waits"])
def test_mail_that_is_done_by_a_function_without_order_leaves_the_line(handle, mail, work, again):
    @route("news-(number)@(host)", number=NUMBER)
    def ANYHOW(message, number, host): ...

    desk = Desk(in_order)
    handle(*desk.states(), ANYHOW)
    mails = mail("bad", "1")
    work()

    Conversation.objects.update(state="ANYHOW", version=F("version") + 1)
    make_due(mails[again])
    work()

    assert statuses(mails[again]) == ["done"]
    assert not Place.objects.filter(delivery=mails[again]).exists()
    assert statuses(*mails) == (["done", "done"] if again == 0 else ["deferred", "done"])


@pytest.mark.parametrize("verb", ["retry", "hold", "discard"])
def test_what_an_operator_does_to_the_first_lets_the_others_go_on(handle, mail, work, verb):
    desk = Desk(in_order)
    handle(*desk.states())
    bad, *_ = mail("bad", "1", "2")
    work()
    desk.broken = False

    rows = Delivery.objects.filter(pk=bad.pk)
    {
        "retry": rows.retry,
        "hold": lambda: rows.hold("Wait"),
        "discard": lambda: rows.discard("No"),
    }[verb]()
    work()

    assert desk.seen == [*(["bad"] if verb == "retry" else []), "1", "2"]


@pytest.mark.parametrize("verb", ["hold", "discard"])
def test_what_an_operator_does_to_one_who_waits_lets_nobody_go_on(handle, mail, work, verb):
    desk = Desk(in_order)
    handle(*desk.states())
    bad, one, two = mail("bad", "1", "2")
    work()

    rows = Delivery.objects.filter(pk=one.pk)
    {"hold": lambda: rows.hold("Wait"), "discard": lambda: rows.discard("No")}[verb]()
    work()

    assert desk.tried == ["bad"]
    assert statuses(bad, two) == ["deferred", "deferred"]

    desk.broken = False
    make_due(bad)
    work()
    assert desk.seen == ["bad", "2"]


def test_operator_cannot_have_a_later_mail_worked_first(handle, mail, work):
    desk = Desk(in_order)
    handle(*desk.states())
    _, later = mail("bad", "1")
    work()

    Delivery.objects.filter(pk=later.pk).retry()
    work()

    assert desk.seen == []


def test_first_mail_that_is_gone_holds_nobody_back(handle, mail, work):
    desk = Desk(in_order)
    handle(*desk.states())
    bad, later = mail("bad", "1")
    work()

    bad.message.delete()
    make_due(later)
    work()

    assert desk.seen == ["1"]


def test_person_who_is_new_may_be_first_in_line(handle, mail, work):
    desk = Desk(in_order)
    handle(*desk.states())

    mail("bad")
    work()

    conversation = Conversation.objects.get()
    assert (conversation.state, conversation.version) == ("START", 0)
    assert conversation.line.count() == 1


def test_person_who_is_new_keeps_nobody_from_writing(handle, mail, work, together):
    runs = []

    @in_order
    @route("news-(number)@(host)", number=NUMBER)
    def START(message, number, host):
        runs.append(number)
        if number == "2":
            together(lambda: Queue.objects.update(name=F("name")))

    handle(START)
    first, second = *mail("1"), *mail("2", sender="other@client.test")

    work()

    assert statuses(first, second) == ["done", "done"]
    assert runs == ["1", "2"]


def test_mail_keeps_its_place_when_its_process_dies(handle, mail, work, process, settings):
    settings.MAIL = {**settings.MAIL, "RETRY_SECONDS": [10.0] * 5}
    desk = Desk(in_order)
    handle(*desk.states())
    bad, later = mail("bad", "1")
    work()
    make_due(bad)
    dying = process()
    Delivery.objects.claim(INCOMING, dying, 1)
    dying.stop()
    release_dead()
    make_due(later)

    work()

    assert desk.tried == ["bad", "bad"]
    assert statuses(bad, later) == ["deferred", "deferred"]


def test_claim_that_is_lost_is_not_deferred(handle, mail, work, process, caplog):
    desk = Desk(in_order)
    handle(*desk.states())
    mail("bad")
    work()
    mail("1")
    claimed = Delivery.objects.claim(INCOMING, process(), 1)
    Delivery.objects.filter(pk=claimed[0].pk).give_back(claimed)

    worker.work(claimed, registry.current_router(max_age=0), Life(process()).stopping)

    assert Delivery.objects.get(pk=claimed[0].pk).status == Status.QUEUED
    assert "The claim was released" in caplog.text


def test_order_is_kept_by_four_workers(handle, message, together, settings):
    settings.MAIL = {**settings.MAIL, "BATCH_SIZE": 3, "RETRY_SECONDS": [0.05] * 5}
    runs = itertools.count()

    @in_order
    @route("(number)@(host)", number="[0-9]+")
    def START(message, number, host):
        if next(runs) % 3 == 0:
            raise SMTPError(450, "Busy")
        message.data.setdefault("numbers", []).append(number)

    handle(START)
    people = [f"person-{number}@client.test" for number in range(4)]
    for number, person in itertools.product(range(12), people):
        message(recipients=[f"{number}@localhost"], sender=person)

    def drain_all() -> None:
        life = Life(Process.objects.start("worker", INCOMING))
        open_mail = Delivery.objects.exclude(status__in=[Status.DONE, Status.HELD])
        wait_until(lambda: worker.drain(INCOMING, life) == 0 and not open_mail.exists())

    together(*[drain_all] * 4)

    done = Delivery.objects.filter(status=Status.DONE).order_by("id")
    worked = {each.person: each.data["numbers"] for each in Conversation.objects.all()}
    assert worked == {
        person: [each.recipient.partition("@")[0] for each in done.filter(person=person)]
        for person in people
    }
    assert not Place.objects.exists()


def test_mail_that_does_not_ask_for_it_takes_no_query_more(handle, mail, work):
    costs = []
    for marks in ([], [in_order]):
        handle(*Desk(*marks).states())
        mail("1")
        with CaptureQueriesContext(connection) as queries:
            work()
        costs.append([query["sql"] for query in queries if "mailapp_place" in query["sql"]])

    assert costs[0] == []
    assert len(costs[1]) <= 2


def test_long_line_is_left_in_as_many_queries_as_a_short_one(handle, mail, work):
    desk = Desk(in_order)
    handle(*desk.states())
    costs = []
    for length in (1, 12):
        bad, *_ = mail("bad", *map(str, range(length)))
        work()
        with CaptureQueriesContext(connection) as queries:
            Delivery.objects.filter(pk=bad.pk).discard("No")
        costs.append(len(queries))
        work()

    assert costs[0] == costs[1]
