"""Functions that run when a conversation has been in one state for too long."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.core.mail import send_mail
from django.db import IntegrityError, connection, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from mailapp import dispatch, timers, worker
from mailapp.engines import sweeper, turn
from mailapp.lifecycle import Life
from mailapp.models import (
    INCOMING,
    OUTGOING,
    Conversation,
    Delivery,
    Handler,
    Message,
    Process,
    Queue,
    Status,
    Timer,
    Transition,
)
from mailapp.routing import after, non_atomic, route, state_key_generator
from tests.waiting import DEADLINE, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

ANSWER = "{% block subject %}Still there?{% endblock %}{% block text %}It is us.{% endblock %}"


@pytest.fixture(autouse=True)
def mail_settings(settings):
    settings.MAIL = {**settings.MAIL, "RETRY_SECONDS": [10.0, 60.0], "POLL_SECONDS": 3600}


@pytest.fixture
def say(message, work):
    """Store a mail and work it, and whatever else is due: `say("news@localhost")`."""

    def write(recipient: str = "news@localhost", sender: str = "reader@client.test", **fields):
        stored = message(recipients=[recipient], sender=sender, **fields)
        work()
        return stored.deliveries.get()

    return write


@pytest.fixture
def asked(handle, say):
    """Bring a person into ASKED, whose timer is `function`: `asked(expire, hours=5)`."""

    def make(function: Callable[..., Any], *marks: Any, **delay: float) -> Conversation:
        handle(*handler_with(function, *marks, **delay))
        say()
        return Conversation.objects.get()

    return make


def handler_with(function: Callable[..., Any], *marks: Any, **delay: float) -> list[Any]:
    """A handler of START and ASKED: a mail leads from each to the other, a timer to START.

    The timer calls `function`, which may name the state to go to.
    """

    @route("news@(host)")
    def START(message, host):
        return ASKED

    @route("stay@(host)")
    @route("again@(host)")
    @route("news@(host)")
    def ASKED(message, host):
        where = message.recipient.partition("@")[0]
        return {"news": START, "again": ASKED, "stay": None}[where]

    def expire(conversation):
        returned = function(conversation)
        return {"START": START, "ASKED": ASKED}.get(returned, returned)

    for mark in (after(ASKED, **(delay or {"days": 3})), *marks):
        expire = mark(expire)
    return [START, ASKED, expire]


def let_pass(**time: float) -> None:
    """Move every timer towards now."""
    for timer in Timer.objects.filter(due_at__isnull=False):
        Timer.objects.filter(pk=timer.pk).update(due_at=timer.due_at - timedelta(**time))


def history() -> list[tuple[str, str, str]]:
    return list(Transition.objects.values_list("from_state", "to_state", "cause"))


def waits() -> list[float]:
    """Hours until each timer is due."""
    rows = Timer.objects.order_by("due_at")
    return [round((row.due_at - timezone.now()) / timedelta(hours=1)) for row in rows]


# When it runs


def test_function_runs_when_the_conversation_is_still_in_the_state(asked, work):
    ran = []

    def expire(conversation):
        ran.append((conversation.person, conversation.state))
        return "START"

    asked(expire)
    let_pass(days=2, hours=23)
    work()
    early = list(ran)
    let_pass(hours=1)

    work()

    assert early == []
    assert ran == [("reader@client.test", "ASKED")]
    assert Conversation.objects.get().state == "START"
    assert history() == [("START", "ASKED", "mail"), ("ASKED", "START", "timer")]
    assert not Timer.objects.exists()


def test_function_does_not_run_once_the_conversation_has_left_the_state(asked, say, work):
    ran = []
    asked(ran.append)

    say()

    assert Conversation.objects.get().state == "START"
    assert not Timer.objects.exists()
    let_pass(days=9)
    work()
    assert ran == []


def test_clock_goes_on_when_a_mail_leaves_the_conversation_where_it_is(asked, say):
    asked(lambda conversation: None, hours=72)
    let_pass(hours=24)

    say("stay@localhost")

    assert waits() == [48]


def test_clock_starts_anew_when_a_mail_enters_the_state_again(asked, say):
    asked(lambda conversation: None, hours=72)
    let_pass(hours=24)

    say("again@localhost")

    assert waits() == [72]


def test_function_that_returns_nothing_stays_and_has_run(asked, work):
    asked(lambda conversation: None)
    let_pass(days=3)

    work()

    assert history()[-1] == ("ASKED", "ASKED", "timer")
    assert not Timer.objects.exists()


def test_function_that_returns_its_state_runs_again_and_again(asked, work):
    asked(lambda conversation: "ASKED", hours=72)

    for _ in range(3):
        let_pass(hours=72)
        work()

    assert history()[1:] == [("ASKED", "ASKED", "timer")] * 3
    assert waits() == [72]


def test_state_may_have_several_timers(handle, say, work):
    ran = []

    @route("news@(host)")
    def START(message, host):
        return ASKED

    @route("news@(host)")
    def ASKED(message, host): ...

    @after(ASKED, hours=48)
    @after(ASKED, hours=24)
    def remind(conversation):
        ran.append("remind")

    @after(ASKED, hours=72)
    def expire(conversation):
        ran.append("expire")
        return START

    handle(START, ASKED, expire, remind)
    say()
    assert waits() == [24, 48, 72]

    let_pass(hours=24)
    work()
    once = list(ran)
    let_pass(hours=48)
    work()

    assert once == ["remind"]
    assert ran == ["remind", "remind", "expire"]
    assert Conversation.objects.get().state == "START"


def test_mail_of_another_handler_may_start_a_timer(handle, say):
    news = handler_with(lambda conversation: None)

    @route("desk@(host)")
    def DESK(message, host):
        return news[1]

    DESK.__name__ = "START"
    handle(desk=[DESK], news=news)

    say("desk@localhost")

    assert Timer.objects.get().conversation.handler.module == "news"


def test_error_has_timers_like_any_state(handle, say, settings):
    settings.MAIL = {**settings.MAIL, "RETRY_SECONDS": [10.0]}

    @route("news@(host)")
    def START(message, host):
        raise LookupError

    @route("help@(host)")
    def ERROR(message, host): ...

    @after(ERROR, days=1)
    def forget(conversation): ...

    handle(START, ERROR, forget)
    failing = say()
    Delivery.objects.filter(pk=failing.pk).update(due_at=timezone.now())

    say(sender="other@client.test", recipient="nobody@localhost")

    assert Timer.objects.get().state == "ERROR"


def test_operator_who_moves_a_conversation_starts_and_stops_timers(asked, say, admin_user):
    conversation = asked(lambda conversation: None)

    dispatch.move(conversation, "START", operator=admin_user)
    assert not Timer.objects.exists()

    dispatch.move(Conversation.objects.get(), "ASKED", operator=admin_user)
    assert Timer.objects.get().function == "expire"


def test_people_who_are_late_at_once_are_all_served(handle, say, work):
    handle(*handler_with(lambda conversation: "START"))
    for number in range(12):
        say(sender=f"{number}@client.test")
    let_pass(days=3)

    work()

    assert history().count(("ASKED", "START", "timer")) == 12


# What it causes


def test_state_data_and_mail_are_stored_together(asked, work):
    def expire(conversation):
        conversation.data["expired"] = True
        send_mail("Gone", "", "news@localhost", [conversation.person])
        return "START"

    asked(expire)
    let_pass(days=3)

    work()

    conversation = Conversation.objects.get()
    assert (conversation.state, conversation.data) == ("START", {"expired": True})
    [sent] = Message.objects.filter(deliveries__queue=OUTGOING)
    assert (sent.subject, sent.cause) == ("Gone", None)


@pytest.mark.parametrize("atomic", [True, False])
def test_function_that_raises_leaves_nothing_and_is_tried_again_later(asked, work, atomic):
    def expire(conversation):
        conversation.data["lost"] = True
        send_mail("Lost", "", "news@localhost", [conversation.person])
        raise LookupError("no such reader")

    asked(expire, *([] if atomic else [non_atomic]))
    let_pass(days=3)

    work()
    work()

    timer = Timer.objects.get()
    assert (timer.tries, timer.reply) == (1, "LookupError: no such reader")
    assert "raise LookupError" in timer.error
    assert 8 < (timer.due_at - timezone.now()).total_seconds() <= 11
    assert Conversation.objects.get().data == {}
    assert not Message.objects.filter(deliveries__queue=OUTGOING).exists()


def test_function_that_fails_for_good_is_left_to_an_operator(asked, work, caplog):
    runs = []

    def expire(conversation):
        runs.append(conversation)
        raise LookupError

    asked(expire)
    for _ in range(4):
        let_pass(days=3)
        work()

    timer = Timer.objects.get()
    assert (len(runs), timer.tries, timer.due_at) == (3, 3, None)
    assert Conversation.objects.get().state == "ASKED"
    said = [record.getMessage() for record in caplog.records if record.name == "mailapp.timers"]
    assert ["tried again" in line for line in said] == [True, True, False]
    assert said[-1].endswith("failed at every try and is held: LookupError")

    Timer.objects.retry()
    work()
    assert len(runs) == 4
    assert (Timer.objects.get().tries, Timer.objects.held().count()) == (1, 0)


def test_function_that_swallows_a_database_error_moves_nothing(asked, work):
    def expire(conversation):
        Queue.objects.create(name="lost")
        send_mail("Lost", "", "news@localhost", [conversation.person])
        with contextlib.suppress(IntegrityError):
            Queue.objects.create(name="lost")
        return "START"

    asked(expire)
    let_pass(days=3)

    work()

    assert Timer.objects.get().reply.startswith("WorkLost: The handler caught a database error")
    assert Conversation.objects.get().state == "ASKED"
    assert not Queue.objects.filter(name="lost").exists()
    assert not Message.objects.filter(deliveries__queue=OUTGOING).exists()


@pytest.mark.parametrize("returned", ["START", None])
def test_function_that_erases_its_conversation_is_tried_as_often_as_any(asked, process, returned):
    runs = []
    life = Life(process())

    def expire(conversation):
        runs.append(conversation.person)
        if len(runs) > 9:
            life.stop()  # or the test never ends
        Conversation.objects.all().delete()
        return returned

    asked(expire)

    for _ in range(4):
        let_pass(days=3)
        worker.drain(INCOMING, life)

    timer = Timer.objects.get()
    assert (len(runs), timer.tries, timer.due_at) == (3, 3, None)
    assert timer.reply.startswith("ConversationMoved")
    assert Conversation.objects.get().state == "ASKED"


@pytest.mark.parametrize("atomic", [True, False])
def test_transaction_that_a_function_never_ends_costs_its_timer_alone(
    handle, say, work, together, atomic
):
    def expire(conversation):
        if conversation.person == "bad@client.test":
            transaction.atomic().__enter__()
            Queue.objects.create(name="lost")
        return "START"

    handle(*handler_with(expire, *([] if atomic else [non_atomic])))
    for name in ("good", "bad", "fine"):
        say(sender=f"{name}@client.test")
    let_pass(days=3)

    together(work)

    timer = Timer.objects.get()
    assert (timer.conversation.person, timer.tries) == ("bad@client.test", 1)
    assert timer.reply.startswith("TransactionLeft: The handler began a transaction")
    assert Conversation.objects.get(state="ASKED") == timer.conversation
    assert history().count(("ASKED", "START", "timer")) == 2
    assert not Queue.objects.filter(name="lost").exists()


def test_held_timer_is_gone_when_the_conversation_moves_on(asked, say):
    conversation = asked(lambda conversation: None)
    conversation.timers.update(due_at=None)

    say()

    assert not Timer.objects.exists()


@pytest.mark.parametrize("returned", ["nonsense", 7, len])
def test_what_is_no_state_is_an_error(asked, work, returned):
    asked(lambda conversation: returned)
    let_pass(days=3)

    work()

    assert "NotAState" in Timer.objects.get().reply


def test_state_of_another_module_is_an_error(handle, say, work):
    @route("other@(host)")
    def ELSEWHERE(message, host): ...

    handle(news=handler_with(lambda conversation: ELSEWHERE), other=[ELSEWHERE])
    say()
    let_pass(days=3)

    work()

    assert "is another module's" in Timer.objects.get().reply


@pytest.mark.parametrize("atomic", [True, False])
def test_function_may_run_outside_of_a_transaction(asked, work, atomic):
    ran = []

    def expire(conversation):
        ran.append(connection.in_atomic_block)
        return "START"

    asked(expire, *([] if atomic else [non_atomic]))
    let_pass(days=3)

    work()

    assert ran == [atomic]
    assert Conversation.objects.get().state == "START"


def test_others_write_while_a_function_thinks(asked, work, together):
    def expire(conversation):
        together(lambda: Queue.objects.update(name=F("name")))
        return "START"

    asked(expire)
    let_pass(days=3)

    work()

    assert Conversation.objects.get().state == "START"


def test_hook_that_raises_redoes_nothing(asked, work, caplog):
    def expire(conversation):
        transaction.on_commit(lambda: 1 / 0)
        return "START"

    asked(expire)
    let_pass(days=3)

    work()

    assert Conversation.objects.get().state == "START"
    assert not Timer.objects.exists()
    assert "ZeroDivisionError" in caplog.text


# What it is given


def test_respond_answers_the_last_mail_of_the_conversation(asked, say, work, templates):
    templates(**{"still.msg": ANSWER})
    asked(lambda conversation: conversation.respond("still.msg"))
    raw = b"From: Reader@client.test\r\nSubject: Stay\r\nMessage-ID: <2@client.test>\r\n\r\n"
    say("stay@localhost", sender="Reader@client.test", raw=raw)
    let_pass(days=3)

    work()

    [sent] = Message.objects.filter(deliveries__queue=OUTGOING)
    assert (sent.sender, sent.deliveries.get().recipient) == (
        "stay@localhost",
        "Reader@client.test",
    )
    assert b"In-Reply-To: <2@client.test>" in sent.raw
    assert b"Auto-Submitted: auto-replied" in sent.raw
    assert b"Subject: Still there?" in sent.raw


def test_respond_is_silent_when_that_mail_was_automatic(asked, say, work, templates):
    templates(**{"still.msg": ANSWER})
    asked(lambda conversation: conversation.respond("still.msg"))
    say("stay@localhost", raw=b"Auto-Submitted: auto-replied\r\n\r\n")
    let_pass(days=3)

    work()

    assert not Message.objects.filter(deliveries__queue=OUTGOING).exists()
    assert not Timer.objects.exists()


def test_respond_writes_to_the_person_when_that_mail_is_kept_no_longer(asked, work, templates):
    templates(**{"still.msg": ANSWER})
    asked(lambda conversation: conversation.respond("still.msg", author="News <news@localhost>"))
    Message.objects.all().delete()
    let_pass(days=3)

    work()

    [sent] = Message.objects.filter(deliveries__queue=OUTGOING)
    assert (sent.sender, sent.author) == ("news@localhost", '"News" <news@localhost>')
    assert sent.deliveries.get().recipient == "reader@client.test"


def test_respond_without_a_mail_and_without_an_author_is_an_error(asked, work, templates):
    templates(**{"still.msg": ANSWER})
    asked(lambda conversation: conversation.respond("still.msg"))
    Message.objects.all().delete()
    let_pass(days=3)

    work()

    assert "NothingToAnswer" in Timer.objects.get().reply


def test_function_sees_the_key_and_the_last_mail(handle, say, work):
    seen = []

    @state_key_generator
    def by_recipient(module_name, message):
        return message.recipient

    def expire(conversation):
        seen.append((conversation.key, conversation.message.subject, repr(conversation)))

    handle(*handler_with(expire), by_recipient)
    say()
    let_pass(days=3)

    work()

    assert seen == [("news@localhost", "Hello", "<ConversationRequest reader@client.test: ASKED>")]


# Who is first


def test_mail_that_came_before_the_moment_is_worked_before_the_timer(asked, message, work):
    ran = []
    asked(ran.append)
    message(recipients=["news@localhost"], sender="reader@client.test")
    let_pass(days=2, hours=23, minutes=59, seconds=59)
    Delivery.objects.filter(status=Status.QUEUED).update(
        created_at=timezone.now() - timedelta(hours=1)
    )
    Queue.objects.get(name=INCOMING).pause()
    let_pass(minutes=1)
    work()
    Queue.objects.get(name=INCOMING).resume()

    work()

    assert ran == []
    assert Conversation.objects.get().state == "START"


def test_timer_waits_for_mail_that_waits_for_its_retry(asked, message, work, process):
    ran = []
    asked(ran.append)
    message(recipients=["news@localhost"], sender="reader@client.test")
    Delivery.objects.filter(status=Status.QUEUED).update(
        status=Status.DEFERRED,
        created_at=timezone.now() - timedelta(hours=1),
        due_at=timezone.now() + timedelta(hours=1),
    )
    let_pass(days=3)

    work()

    assert ran == []
    assert timers.are_due(INCOMING)
    assert worker.idle_seconds(INCOMING, timezone.now()) == pytest.approx(3600, abs=60)


def test_mail_that_came_later_does_not_keep_a_timer_waiting(asked, message, process):
    ran = []
    asked(ran.append)
    let_pass(days=3, hours=1)
    message(recipients=["news@localhost"], sender="reader@client.test")

    timers.work(INCOMING, Life(process()))

    assert len(ran) == 1


def test_timer_of_a_paused_queue_waits(asked, work):
    ran = []
    asked(ran.append)
    let_pass(days=3)
    Queue.objects.get(name=INCOMING).pause()

    work()

    assert ran == []


def test_timer_is_not_run_by_the_workers_of_another_queue(asked, work):
    Queue.objects.create(name="copies")
    ran = []
    asked(ran.append)
    let_pass(days=3)

    work("copies")

    assert ran == []


def test_timer_of_a_handler_that_is_switched_off_waits_until_it_is_on(asked, work):
    ran = []
    asked(ran.append)
    let_pass(days=3)
    Handler.objects.update(enabled=False)

    work()
    assert ran == []

    Handler.objects.update(enabled=True)
    work()
    assert len(ran) == 1


def test_mail_without_end_keeps_no_timer_waiting(handle, message, say, work):
    order = []
    end = time.monotonic() + DEADLINE

    def expire(conversation):
        order.append("timer")
        return "START"

    @route("log@(host)")
    def LOG(message_in_hand, host):
        order.append("mail")
        if "timer" not in order and time.monotonic() < end:
            message(recipients=["log@localhost"])

    LOG.__name__ = "START"
    handle(news=handler_with(expire), log=[LOG])
    say(sender="late@client.test")
    let_pass(days=3)
    message(recipients=["log@localhost"])

    work()

    assert order[-1] == "mail"


def test_timers_without_end_keep_no_mail_waiting(handle, message, say, work, settings):
    settings.MAIL = {**settings.MAIL, "BATCH_SIZE": 1}
    order = []

    def expire(conversation):
        if not order:
            message(recipients=["log@localhost"])
        order.append("timer")
        return "START"

    @route("log@(host)")
    def LOG(message, host):
        order.append("mail")

    LOG.__name__ = "START"
    handle(news=handler_with(expire), log=[LOG])
    for number in range(3):
        say(sender=f"late-{number}@client.test")
    let_pass(days=3)

    work()

    assert order == ["timer", "mail", "timer", "timer"]


# Code that changed


@pytest.mark.parametrize("gone", ["function", "state", "timer"])
def test_timer_that_the_code_has_no_more_fails_and_hurts_nobody(handle, asked, say, work, gone):
    asked(lambda conversation: "START")
    let_pass(days=3)
    START, ASKED, _ = handler_with(lambda conversation: None)

    handle(START, *([ASKED] if gone != "state" else []))
    say(sender="other@client.test", recipient="news@localhost")

    assert Timer.objects.get().reply == (
        "TimerGone: The handler module has no such timer any more; was its function or state "
        "renamed?: news.expire after ASKED"
    )
    assert Delivery.objects.filter(queue=INCOMING, status=Status.DONE).exists()


def test_timer_of_a_module_that_is_gone_waits(handle, asked, work):
    asked(lambda conversation: "START")
    let_pass(days=3)
    handle(other=handler_with(lambda conversation: None))

    work()

    assert Timer.objects.get().tries == 0


def test_timer_of_a_state_that_was_left_unseen_is_dropped(asked, work):
    ran = []
    asked(ran.append)
    Conversation.objects.update(state="START")
    let_pass(days=3)

    work()

    assert ran == []
    assert not Timer.objects.exists()


def test_held_timers_can_be_discarded(asked):
    conversation = asked(lambda conversation: None)
    assert Timer.objects.discard() == 0

    conversation.timers.update(due_at=None)

    assert Timer.objects.discard() == 1


# Exactly once


def test_each_timer_runs_once_with_four_workers(handle, say, process, together):
    ran = []

    def expire(conversation):
        ran.append(conversation.person)
        send_mail("Gone", "", "news@localhost", [conversation.person])
        return "START"

    handle(*handler_with(expire))
    people = [f"{number}@client.test" for number in range(20)]
    for person in people:
        say(sender=person)
    let_pass(days=3)

    together(*[partial(worker.drain, INCOMING, Life(process())) for _ in range(4)])

    assert sorted(ran) == sorted(people)
    assert history().count(("ASKED", "START", "timer")) == 20
    assert Message.objects.filter(deliveries__queue=OUTGOING).count() == 20


def test_two_who_read_the_same_timer_do_not_both_claim_it(asked, process, together):
    asked(lambda conversation: None)
    let_pass(days=3)
    read = [Timer.objects.get() for _ in range(4)]
    processes = [process() for _ in read]

    took = together(*[partial(one.claim, by) for one, by in zip(read, processes, strict=True)])

    assert len(list(filter(None, took))) == 1
    assert Timer.objects.get().tries == 1


class Gate:
    """A function that waits until it may go on."""

    def __init__(self, returned: Any) -> None:
        self.returned = returned
        self.reached, self.open = threading.Event(), threading.Event()
        self.runs = 0

    def __call__(self, conversation: Any) -> Any:
        self.runs += 1
        if self.runs == 1:
            self.reached.set()
            assert self.open.wait(DEADLINE)
        send_mail("Gone", "", "news@localhost", [conversation.person])
        return self.returned


def ring_in_turn(gate: Gate, slow: Process, together: Callable[..., Any], meanwhile: Any) -> None:
    """Have `slow` run the timer, and do something else while its function runs."""

    def interrupt() -> None:
        assert gate.reached.wait(DEADLINE)
        try:
            meanwhile()
        finally:
            gate.open.set()

    together(partial(timers.work, INCOMING, Life(slow)), interrupt)


@pytest.mark.parametrize("returned", ["START", "ASKED", None])
def test_late_worker_and_its_successor_do_not_both_store(asked, process, together, work, returned):
    gate = Gate(returned)
    asked(gate, non_atomic)
    let_pass(days=3)
    slow = process()

    def succeed() -> None:
        slow.stop()
        work()

    ring_in_turn(gate, slow, together, succeed)

    assert gate.runs == 2
    assert [cause for *_, cause in history()] == ["mail", "timer"]
    assert Message.objects.filter(deliveries__queue=OUTGOING).count() == 1
    assert Timer.objects.filter(tries__gt=0).count() == 0


def test_mail_that_moves_the_conversation_meanwhile_wins(asked, process, together, say):
    gate = Gate("ASKED")
    asked(gate, non_atomic)
    let_pass(days=3)

    ring_in_turn(gate, process(), together, say)

    assert history() == [("START", "ASKED", "mail"), ("ASKED", "START", "mail")]
    assert not Message.objects.filter(deliveries__queue=OUTGOING).exists()
    assert not Timer.objects.exists()


def test_mail_that_stays_meanwhile_costs_the_timer_no_try(asked, process, together, say):
    gate = Gate("START")
    asked(gate, non_atomic)
    let_pass(days=3)
    slow = process()

    def stay() -> None:
        say("stay@localhost")

    ring_in_turn(gate, slow, together, stay)
    again = Timer.objects.get()

    assert (again.tries, again.claimed_by) == (0, None)
    timers.work(INCOMING, Life(slow))
    assert Conversation.objects.get().state == "START"


def test_timer_is_not_run_by_two_living_workers(asked, process, together, work):
    gate = Gate("START")
    asked(gate, non_atomic)
    let_pass(days=3)

    ring_in_turn(gate, process(), together, work)

    assert gate.runs == 1


# Processes that die


def test_timer_whose_process_died_is_run_by_another(asked, process, work):
    ran = []
    asked(ran.append)
    let_pass(days=3)
    dying = process()
    assert Timer.objects.get().claim(dying)
    work()
    assert ran == []

    dying.stop()
    work()

    assert len(ran) == 1
    assert not Timer.objects.exists()


def test_timer_that_killed_three_processes_is_held(asked, process, work):
    ran = []
    asked(ran.append)
    let_pass(days=3)

    for _ in range(3):
        dying = process()
        assert Timer.objects.get().claim(dying)
        dying.stop()
    work()

    timer = Timer.objects.get()
    assert ran == []
    assert (timer.lost, timer.due_at) == (3, None)
    assert timer.reply.startswith("LostTooOften")


def test_worker_takes_up_again_what_it_had_claimed_when_the_database_went_away(asked, process):
    asked(lambda conversation: "START")
    let_pass(days=3)
    life = Life(process())
    Timer.objects.get().claim(life.process)

    [taken] = Timer.objects.due().free(life.process)

    assert taken.claim(life.process).lost == 0  # nobody died
    timers.work(INCOMING, life)
    assert Conversation.objects.get().state == "START"


def test_timer_that_brings_the_database_down_each_time_is_held_in_the_end(asked, process):
    ran = []
    asked(ran.append)
    let_pass(days=3)
    life = Life(process())

    for _ in range(3):  # and nobody could write how the try ended
        assert Timer.objects.get().claim(life.process)
    timers.work(INCOMING, life)

    timer = Timer.objects.get()
    assert ran == []
    assert (timer.lost, timer.due_at) == (0, None)
    assert timer.reply.startswith("LostTooOften")


def test_last_try_of_a_timer_is_made_though_the_database_broke_off_those_before(asked, process):
    asked(lambda conversation: "START")
    let_pass(days=3)
    life = Life(process())

    for _ in range(2):
        assert Timer.objects.get().claim(life.process)
    timers.work(INCOMING, life)

    assert Conversation.objects.get().state == "START"


# The clock


def test_waiting_ends_when_the_next_timer_is_due(asked):
    asked(lambda conversation: None, minutes=2)

    assert 0 < worker.idle_seconds(INCOMING, timezone.now()) <= 120
    assert worker.idle_seconds("copies", timezone.now()) == 3600


def test_clock_that_jumps_ahead_runs_each_timer_once(asked, work, shifted_clock):
    ran = []

    def expire(conversation):
        ran.append(timezone.now())
        return "ASKED"

    asked(expire)
    shifted_clock(days=365)

    work()
    work()

    assert len(ran) == 1
    assert waits() == [72]


def test_clock_that_jumps_back_runs_nothing_twice(asked, work, shifted_clock):
    ran = []

    def expire(conversation):
        ran.append(timezone.now())

    asked(expire)
    shifted_clock(days=3)
    work()

    shifted_clock(days=-30)
    work()
    shifted_clock(days=3)
    work()

    assert len(ran) == 1


@pytest.fixture
def shifted_clock(monkeypatch):
    """Move the clock of this process: `shifted_clock(days=3)`."""
    real = timezone.now

    def shift(**time: float) -> None:
        monkeypatch.setattr(timezone, "now", lambda: real() + timedelta(**time))

    return shift


# Engines


def test_task_of_an_engine_runs_timers(asked):
    asked(lambda conversation: "START")
    let_pass(days=3)

    turn.take(INCOMING)

    assert Conversation.objects.get().state == "START"


def test_sweeper_wakes_the_engine_when_a_timer_is_due(asked, settings, tmp_path):
    settings.MAIL = {**settings.MAIL, "RUN_DIR": str(tmp_path)}
    asked(lambda conversation: "START")
    sweeper.sweep()
    early = Queue.objects.get(name=INCOMING).woken_at
    let_pass(days=3)

    sweeper.sweep()

    assert early is None
    wait_until(lambda: Queue.objects.get(name=INCOMING).woken_at)


# What it costs


def statements(function: Callable[[], Any]) -> int:
    with CaptureQueriesContext(connection) as queries:
        function()
    return len(queries)


def test_mail_of_a_state_without_timers_takes_no_query_more(handle, say, work, message):
    @route("news@(host)")
    def START(message, host):
        return READING

    @route("news@(host)")
    def READING(message, host):
        return START

    states = [START, READING]
    costs = []
    for handler in (states, [*states, *handler_with(lambda c: None)[1:]]):
        handle(*handler)
        say()
        message(recipients=["news@localhost"], sender="reader@client.test")
        costs.append(statements(work))

    assert costs[0] == costs[1]


def test_timers_take_as_many_queries_each_however_many_there_are(handle, say, work, settings):
    settings.MAIL = {**settings.MAIL, "BATCH_SECONDS": 3600}
    handle(*handler_with(lambda conversation: "START"))
    costs = []
    for count in (1, 2, 7):
        for number in range(count):
            say(sender=f"{number}@client.test")
        let_pass(days=3)
        costs.append(statements(work))

    assert costs[2] - costs[1] == 5 * (costs[1] - costs[0])


def explain(sql: str) -> str:
    plan = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
    with connection.cursor() as cursor:
        cursor.execute(f"{plan} {sql}")
        return "\n".join(str(row[-1]) for row in cursor.fetchall())


@pytest.mark.parametrize("statistics", [True, False])
def test_due_timers_are_found_by_the_index_among_thousands(asked, process, message, statistics):
    conversation = asked(lambda conversation: None)
    Conversation.objects.bulk_create(
        Conversation(handler=conversation.handler, person=f"{number}@client.test", state="ASKED")
        for number in range(3000)
    )
    message(recipients=["you@example.com"] * 3000, sender="other@client.test")
    Delivery.objects.update(status=Status.DONE, due_at=None)
    due_at = timezone.now() + timedelta(days=2)
    Timer.objects.bulk_create(
        Timer(conversation=each, state="ASKED", function="expire", due_at=due_at)
        for each in Conversation.objects.all()
    )
    Timer.objects.filter(pk=Timer.objects.last().pk).update(due_at=timezone.now())
    if statistics:
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
    worker = process()

    with CaptureQueriesContext(connection) as queries:
        assert timers.are_due(INCOMING)
        assert timers.next_due(INCOMING, timezone.now())
        assert len(Timer.objects.due().free(worker)) == 1
    plans = [explain(query["sql"]) for query in queries]

    assert len(plans) == 3
    assert all("mailapp_timer_due" in plan for plan in plans)
    assert "mailapp_by_" in plans[-1]  # of the person, or of what waits
    assert not re.search(
        "(Seq Scan on|SCAN) mailapp_(timer|delivery|conversation)", "\n".join(plans)
    )
