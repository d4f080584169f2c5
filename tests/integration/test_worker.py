"""The loop that works a queue: what is stored together, and what a failure leaves."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.mail import send_mail
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from mailapp import containment, registry, wakeup, worker
from mailapp.containment import is_slow
from mailapp.errors import SMTPError
from mailapp.inhand import InHand
from mailapp.lifecycle import Life, living, release_dead
from mailapp.models import (
    INCOMING,
    OUTGOING,
    Attempt,
    Conversation,
    Delivery,
    Handler,
    Message,
    Process,
    Queue,
    Status,
    Transition,
)
from mailapp.routing import after, non_atomic, route
from tests.waiting import DEADLINE, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

RETRIES = [10.0, 60.0, 300.0]


@pytest.fixture(autouse=True)
def mail_settings(settings, tmp_path):
    settings.MAIL = {
        **settings.MAIL,
        "RUN_DIR": str(tmp_path),
        "RETRY_SECONDS": RETRIES,
        "POLL_SECONDS": 3600,
    }


@pytest.fixture
def mail(message):
    """Store a mail for the handlers and return its delivery: `mail("3", sender="a@b.test")`."""
    numbers = itertools.count()

    def store(recipient: str = "news@localhost", **fields: Any) -> Delivery:
        sender = f"reader-{next(numbers)}@client.test"
        return message(recipients=[recipient], **({"sender": sender} | fields)).deliveries.get()

    return store


@pytest.fixture
def on_postgres():
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has one writer at a time")


def state_function(function: Callable[..., Any], name: str = "START") -> Callable[..., Any]:
    """Take any recipient with a function of the message and the local part."""

    @route("(local)@(host)", local="[a-z0-9-]+")
    def state(message, local, host):
        return function(message, local)

    state.__name__ = name
    return state


def make_due(*deliveries: Delivery) -> None:
    Delivery.objects.filter(pk__in=[each.pk for each in deliveries], due_at__isnull=False).update(
        due_at=F("created_at")
    )


def fresh(delivery: Delivery) -> Delivery:
    return Delivery.objects.get(pk=delivery.pk)


def outgoing() -> list[Message]:
    return list(Message.objects.filter(deliveries__queue=OUTGOING).order_by("id"))


# One transaction


def test_state_mail_and_mark_are_stored_together(handle, mail, work):
    def start(message, local):
        send_mail("Hello", "", "news@localhost", [message.sender])
        return reading

    reading = state_function(lambda message, local: None, "READING")
    handle(state_function(start), reading)
    delivery = mail()

    worked = work()

    assert worked == 1
    assert fresh(delivery).status == Status.DONE
    assert Conversation.objects.get().state == "READING"
    assert [message.cause for message in outgoing()] == [delivery]
    assert Transition.objects.get().delivery == delivery
    [attempt] = fresh(delivery).attempt_set.all()
    assert (attempt.number, attempt.outcome, attempt.error) == (1, Status.DONE, "")
    assert attempt.process.kind == "worker"


def test_exception_leaves_neither_state_nor_mail(handle, mail, work):
    def start(message, local):
        send_mail("Lost", "", "news@localhost", [message.sender])
        message.data["lost"] = True
        Queue.objects.create(name="lost")
        raise LookupError

    handle(state_function(start))
    delivery = mail()

    work()

    assert fresh(delivery).status == Status.DEFERRED
    assert not outgoing()
    assert not Conversation.objects.exists()
    assert not Queue.objects.filter(name="lost").exists()


@pytest.mark.parametrize("atomic", [True, False])
def test_lost_claim_leaves_neither_state_nor_mail(
    handle, mail, work, together, caplog, request, atomic
):
    if atomic:
        request.getfixturevalue("on_postgres")

    def start(message, local):
        send_mail("Lost", "", "news@localhost", [message.sender])
        message.data["lost"] = True
        together(
            lambda: Delivery.objects.filter(pk=message.delivery.pk).give_back([message.delivery])
        )

    start_state = state_function(start)
    handle(start_state if atomic else non_atomic(start_state))
    delivery = mail()
    life = Life(Process.objects.start("worker", INCOMING))
    batch = Delivery.objects.claim(INCOMING, life.process, 50)

    worker.work(batch, registry.current_router(max_age=0), life.stopping)

    assert fresh(delivery).status == Status.QUEUED
    assert not outgoing()
    assert not Conversation.objects.exists()
    assert not Attempt.objects.exists()
    assert "The claim was released" in caplog.text


def test_lost_claim_of_a_mail_that_failed_changes_nothing(handle, mail, together):
    def start(message, local):
        together(
            lambda: Delivery.objects.filter(pk=message.delivery.pk).give_back([message.delivery])
        )
        raise LookupError

    handle(non_atomic(state_function(start)))
    delivery = mail()
    life = Life(Process.objects.start("worker", INCOMING))
    batch = Delivery.objects.claim(INCOMING, life.process, 50)

    worker.work(batch, registry.current_router(max_age=0), life.stopping)

    assert (fresh(delivery).status, fresh(delivery).attempts) == (Status.QUEUED, 0)
    assert not Attempt.objects.exists()


def test_one_bad_mail_among_fifty_leaves_the_others_done(handle, mail, work):
    def start(message, local):
        send_mail(local, "", "news@localhost", [message.sender])
        if local == "mail-25":
            raise LookupError

    handle(state_function(start))
    deliveries = [mail(f"mail-{number}@localhost") for number in range(50)]

    worked = work()

    assert worked == 50
    assert fresh(deliveries[25]).status == Status.DEFERRED
    assert Delivery.objects.filter(queue=INCOMING, status=Status.DONE).count() == 49
    assert len(outgoing()) == 49


def test_mail_whose_effects_cannot_be_stored_fails_alone(handle, mail, work):
    def start(message, local):
        if local == "mail-2":
            message.to_queue("no-such-queue")
        return reading

    reading = state_function(lambda message, local: None, "READING")
    handle(state_function(start), reading)
    deliveries = [mail(f"mail-{number}@localhost") for number in range(5)]

    worked = work()

    assert worked == 5
    assert [str(fresh(each).status) for each in deliveries] == [
        *["done", "done"],
        *["deferred"],
        *["done", "done"],
    ]
    assert "NoSuchQueue" in fresh(deliveries[2]).reply
    assert "no-such-queue" in fresh(deliveries[2]).reply
    assert Conversation.objects.count() == 4


def test_what_postgresql_cannot_store_fails_alone(on_postgres, handle, mail, work):
    def start(message, local):
        message.data["text"] = "\0" if local == "bad" else "good"

    handle(state_function(start))
    good, bad, fine = mail(), mail("bad@localhost"), mail()

    work()

    assert [fresh(each).status for each in (good, bad, fine)] == ["done", "deferred", "done"]


def test_handler_that_swallows_a_database_error_fails_alone(handle, mail, work):
    def start(message, local):
        if local == "bad":
            Queue.objects.create(name="lost")
            with contextlib.suppress(IntegrityError):
                Queue.objects.create(name="lost")

    handle(state_function(start))
    good, bad, fine = mail(), mail("bad@localhost"), mail()

    work()

    assert [fresh(each).status for each in (good, bad, fine)] == ["done", "deferred", "done"]
    assert fresh(bad).reply.startswith("WorkLost: The handler caught a database error")
    assert not Queue.objects.filter(name="lost").exists()


def test_handler_that_swallows_an_error_of_plain_sql_fails_alone(on_postgres, handle, mail, work):
    def start(message, local):
        if local == "bad":
            with contextlib.suppress(DatabaseError):
                connection.cursor().execute("SELECT nonsense")

    handle(state_function(start))
    good, bad, fine = mail(), mail("bad@localhost"), mail()

    work()

    assert [fresh(each).status for each in (good, bad, fine)] == ["done", "deferred", "done"]


def test_handler_may_catch_a_database_error_around_a_transaction(handle, mail, work):
    def start(message, local):
        try:
            with transaction.atomic():
                Queue.objects.create(name=INCOMING)
        except IntegrityError:
            message.note = "there already"

    handle(state_function(start))
    delivery = mail()

    work()

    assert (fresh(delivery).status, fresh(delivery).reply) == (Status.DONE, "there already")


def test_deadlock_of_two_batches_costs_no_mail_a_try(on_postgres, handle, mail, process, together):
    Queue.objects.bulk_create([Queue(name="left"), Queue(name="right")])
    both_have_locked = threading.Barrier(2)
    runs = []

    def start(message, local):
        row, turn = local.split("-")
        Queue.objects.filter(name=row).update(description=local)
        runs.append(local)
        if turn == "first" and runs.count(local) == 1:
            both_have_locked.wait(DEADLINE)

    handle(state_function(start))
    for local in ("left-first", "right-second", "right-first", "left-second"):
        mail(f"{local}@localhost")
    router, stopping = registry.current_router(max_age=0), threading.Event()
    batches = [Delivery.objects.claim(INCOMING, process(), 2) for _ in range(2)]

    done = together(
        *[lambda batch=batch: worker.work(batch, router, stopping) for batch in batches]
    )

    assert done == [2, 2]
    assert len(runs) == 5  # the first one of a batch ran twice
    assert set(Delivery.objects.values_list("status", "attempts")) == {("done", 1)}
    assert set(Attempt.objects.values_list("outcome", flat=True)) == {"done"}


def test_mail_that_meets_a_deadlock_alone_is_deferred(on_postgres, handle, mail, work):
    runs = []

    def start(message, local):
        runs.append(local)
        if local == "bad":
            with connection.cursor() as cursor:
                cursor.execute(
                    "DO 'BEGIN RAISE EXCEPTION USING ERRCODE = ''deadlock_detected''; END'"
                )

    handle(state_function(start))
    good, bad, fine = mail("good@localhost"), mail("bad@localhost"), mail("fine@localhost")

    work()

    assert [fresh(each).status for each in (good, bad, fine)] == ["done", "deferred", "done"]
    assert fresh(bad).reply.startswith("OperationalError: deadlock_detected")
    assert runs == ["good", "bad", "good", "bad", "fine"]  # the second time, each alone


@pytest.mark.parametrize("atomic", [True, False])
def test_transaction_that_a_handler_never_ends_costs_its_mail_alone(
    handle, mail, work, together, atomic
):
    def start(message, local):
        send_mail(local, "", "news@localhost", [message.sender])
        if local == "bad":
            transaction.atomic().__enter__()
            Queue.objects.create(name="lost")

    start_state = state_function(start)
    handle(start_state if atomic else non_atomic(start_state))
    good, bad, fine = mail(), mail("bad@localhost"), mail()

    together(work)

    assert [fresh(each).status for each in (good, bad, fine)] == ["done", "deferred", "done"]
    assert fresh(bad).reply == (
        "TransactionLeft: The handler began a transaction and never ended it, "
        "so nothing that it did was kept."
    )
    assert fresh(bad).attempt_set.get().error == ""
    assert not Queue.objects.filter(name="lost").exists()
    assert len(outgoing()) == 2


# Outside of a transaction


@pytest.mark.parametrize("by", ["decorator", "setting"])
def test_handler_may_run_outside_of_a_transaction(handle, mail, work, settings, by):
    ran = []

    def start(message, local):
        ran.append((local, connection.in_atomic_block))
        send_mail("Hello", "", "news@localhost", [message.sender])
        return reading

    start_state = state_function(start)
    reading = state_function(lambda message, local: None, "READING")
    settings.MAIL = {**settings.MAIL, "ATOMIC_HANDLERS": by == "decorator"}
    handle(non_atomic(start_state) if by == "decorator" else start_state, reading)
    for number in range(3):
        mail(f"mail-{number}@localhost")

    worked = work()

    assert worked == 3
    assert ran == [("mail-0", False), ("mail-1", False), ("mail-2", False)]
    assert Conversation.objects.filter(state="READING").count() == 3
    assert len(outgoing()) == 3


def test_what_failed_outside_of_a_transaction_keeps_its_own_rows_and_moves_nothing(
    handle, mail, work
):
    def start(message, local):
        Queue.objects.create(name="kept")
        send_mail("Lost", "", "news@localhost", [message.sender])
        message.data["lost"] = True
        raise LookupError

    handle(non_atomic(state_function(start)))
    delivery = mail()

    work()

    assert fresh(delivery).status == Status.DEFERRED
    assert Queue.objects.filter(name="kept").exists()
    assert not outgoing()
    assert not Conversation.objects.exists()


def test_function_outside_of_a_transaction_does_not_run_once_its_claim_is_lost(
    handle, mail, process, caplog
):
    runs = []
    handle(non_atomic(state_function(lambda message, local: runs.append(local))))
    delivery = mail()
    batch = Delivery.objects.claim(INCOMING, process(), 50)
    Delivery.objects.filter(pk=delivery.pk).give_back(batch)

    worker.work(batch, registry.current_router(max_age=0), threading.Event())

    assert runs == []
    assert (fresh(delivery).status, fresh(delivery).attempts) == (Status.QUEUED, 0)
    assert "The claim was released" in caplog.text


def test_autocommit_that_a_function_turned_off_costs_its_mail_alone(handle, mail, work, together):
    def start(message, local):
        if local == "bad":
            transaction.set_autocommit(False)
            Queue.objects.create(name="lost")

    handle(non_atomic(state_function(start)))
    good, bad, fine = mail(), mail("bad@localhost"), mail()

    together(work)

    assert [fresh(each).status for each in (good, bad, fine)] == ["done", "deferred", "done"]
    assert fresh(bad).reply.startswith("TransactionLeft")
    assert not Queue.objects.filter(name="lost").exists()


def test_what_cannot_be_stored_after_a_run_outside_is_tried_again(handle, mail, work):
    def start(message, local):
        message.to_queue("no-such-queue")

    handle(non_atomic(state_function(start)))
    delivery = mail()

    work()

    assert fresh(delivery).status == Status.DEFERRED
    assert "NoSuchQueue" in fresh(delivery).reply


def test_conversation_that_an_operator_moved_meanwhile_is_tried_again_at_once(handle, mail, work):
    runs = []

    def start(message, local):
        runs.append("START")
        Conversation.objects.update(state="PARKED", version=F("version") + 1)
        return start_state

    def parked(message, local):
        runs.append("PARKED")

    start_state = non_atomic(state_function(start))
    handle(start_state, state_function(parked, "PARKED"))
    Conversation.objects.create(
        handler=Handler.objects.get(module="news"), person="reader@client.test"
    )
    delivery = mail(sender="reader@client.test")

    work()
    work()

    assert runs == ["START", "PARKED"]
    assert (fresh(delivery).status, fresh(delivery).attempts) == (Status.DONE, 2)
    assert Conversation.objects.get().state == "PARKED"


def test_mail_whose_conversation_moved_meanwhile_stays_ahead_of_later_mail(
    handle, mail, work, settings, together
):
    settings.MAIL = {**settings.MAIL, "BATCH_SECONDS": 0.000001}
    runs = []

    def start(message, local):
        runs.append(local)
        if len(runs) == 1:
            together(lambda: Conversation.objects.update(version=F("version") + 1))

    handle(state_function(start))
    Conversation.objects.create(
        handler=Handler.objects.get(module="news"), person="reader@client.test"
    )
    first, second = (
        mail(f"{local}@localhost", sender="reader@client.test") for local in ("first", "second")
    )

    work()

    assert runs == ["first", "first", "second"]
    for each in (first, second):
        assert (fresh(each).status, fresh(each).attempts) == (Status.DONE, 1)


# Failures


def test_4xx_defers(handle, mail, work):
    def start(message, local):
        raise SMTPError(450, "Come back later", "4.2.1")

    handle(state_function(start))
    delivery = mail()

    work()

    assert (fresh(delivery).status, fresh(delivery).reply) == (
        Status.DEFERRED,
        "450 4.2.1 Come back later",
    )
    assert fresh(delivery).attempt_set.get().error == ""


def test_5xx_fails_and_tells_the_sender_and_nothing_else(handle, mail, work):
    def start(message, local):
        send_mail("Lost", "", "news@localhost", [message.sender])
        raise SMTPError(550, "The list is closed")

    handle(state_function(start))
    delivery = mail(sender="reader@client.test")

    work()

    assert (fresh(delivery).status, fresh(delivery).reply) == (
        Status.FAILED,
        "550 5.0.0 The list is closed",
    )
    [report] = outgoing()
    assert (report.sender, report.deliveries.get().recipient) == ("", "reader@client.test")
    assert b"The list is closed" in report.raw


def test_report_that_cannot_be_posted_does_not_hold_up_the_rest(handle, mail, work):
    def start(message, local):
        if local == "bad":
            raise SMTPError(550, "No")

    handle(state_function(start))
    bad, good = mail("bad@localhost", sender="no address"), mail()

    work()

    assert (fresh(bad).status, fresh(good).status) == (Status.FAILED, Status.DONE)


def test_exception_is_kept_with_its_traceback_and_tried_again_with_growing_waits(
    handle, mail, work
):
    def start(message, local):
        raise LookupError(f"no {local}\nat all")

    handle(state_function(start))
    delivery = mail()
    waits = []

    for _ in RETRIES:
        work()
        waits.append((fresh(delivery).due_at - timezone.now()).total_seconds())
        assert work() == 0  # not due
        make_due(delivery)
    work()

    for wait, wanted in zip(waits, RETRIES, strict=True):
        assert 0.8 * wanted < wait <= 1.1 * wanted
    held = fresh(delivery)
    assert (held.status, held.queue_id, held.held_from_id) == (
        Status.HELD,
        "undeliverable",
        INCOMING,
    )
    assert held.reply == "LookupError: no news at all"
    attempts = list(held.attempt_set.all())
    assert [each.outcome for each in attempts] == ["deferred"] * 3 + ["held"]
    assert all("raise LookupError" in each.error for each in attempts)


def test_replay_begins_a_new_series_of_tries(handle, mail, work):
    def start(message, local):
        raise LookupError

    handle(state_function(start))
    delivery = mail()
    for _ in range(4):
        work()
        make_due(delivery)
    assert fresh(delivery).status == Status.HELD

    Delivery.objects.filter(pk=delivery.pk).retry()
    work()

    again = fresh(delivery)
    assert (again.status, again.attempts) == (Status.DEFERRED, 5)
    assert again.due_at - timezone.now() < timedelta(seconds=2 * RETRIES[0])


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "reply"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (ValueError("nul \0 and \ud800 half\u2028a pair"), "ValueError: nul and half a pair"),
        (Unspeakable(), "Unspeakable: <exception str() failed>"),
        (ValueError(""), "ValueError"),
        (ValueError("x" * 5000), "ValueError: " + "x" * 488),
        (RecursionError("deep"), "RecursionError: deep"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("atomic", [True, False])
def test_whatever_a_handler_raises_is_kept(handle, mail, work, error, reply, atomic):
    def start(message, local):
        raise error

    start_state = state_function(start)
    handle(start_state if atomic else non_atomic(start_state))
    delivery = mail()

    work()

    assert (fresh(delivery).status, fresh(delivery).reply) == (Status.DEFERRED, reply)
    assert "Traceback" in fresh(delivery).attempt_set.get().error


# Hooks


def test_hooks_of_handlers_run_after_the_commit(handle, mail, work):
    seen = []

    def start(message, local):
        transaction.on_commit(lambda: seen.append(str(fresh(message.delivery).status)))

    handle(state_function(start))
    mail()

    work()

    assert seen == ["done"]


@pytest.mark.parametrize("atomic", [True, False])
def test_hook_that_raises_redoes_nothing_and_spares_the_other_hooks(
    handle, mail, work, caplog, atomic
):
    runs, hooks = [], []

    def fail():
        raise LookupError("the hook failed")

    def start(message, local):
        runs.append(local)
        with transaction.atomic():
            transaction.on_commit(fail if local == "bad" else lambda: hooks.append(local))

    start_state = state_function(start)
    handle(start_state if atomic else non_atomic(start_state))
    bad, good = mail("bad@localhost"), mail()

    work()
    make_due(bad)
    work()

    assert runs == ["bad", "news"] if atomic else ["bad", "bad", "news"]
    assert hooks == ["news"]
    assert fresh(good).status == Status.DONE
    if atomic:
        assert fresh(bad).status == Status.DONE
        assert "the hook failed" in caplog.text


def test_hooks_of_a_run_that_failed_do_not_run(handle, mail, work):
    hooks = []

    def start(message, local):
        transaction.on_commit(lambda: hooks.append(local))
        raise LookupError

    handle(state_function(start))
    mail()

    work()

    assert hooks == []


# Batches


def test_batch_commits_what_is_done_when_its_time_is_up(handle, mail, work, settings, together):
    settings.MAIL = {**settings.MAIL, "BATCH_SECONDS": 0.000001}
    done_before = []

    def start(message, local):
        done = Delivery.objects.filter(status=Status.DONE)
        done_before.extend(together(done.count))  # as another connection sees it

    handle(state_function(start))
    for _ in range(3):
        mail()

    work()

    assert done_before == [0, 1, 2]


def test_stop_in_the_middle_gives_the_rest_back_uncounted(handle, mail, settings):
    settings.MAIL = {**settings.MAIL, "BATCH_SECONDS": 0.000001}
    stopping = threading.Event()
    handle(state_function(lambda message, local: (local == "mail-1" and stopping.set()) or None))
    deliveries = [mail(f"mail-{number}@localhost") for number in range(4)]
    batch = Delivery.objects.claim(INCOMING, Process.objects.start("worker", INCOMING), 50)

    done = worker.work(batch, registry.current_router(max_age=0), stopping)

    assert done == 2
    assert [(str(fresh(each).status), fresh(each).attempts) for each in deliveries] == [
        *[("done", 1), ("done", 1)],
        *[("queued", 0), ("queued", 0)],
    ]


@pytest.fixture
def supervisors(monkeypatch):
    """What a supervisor sees of this worker."""
    monkeypatch.setattr(containment, "_in_hand", None)
    seen, fd = InHand.shared()
    containment.show_to_supervisor(fd)
    yield seen
    os.close(fd)


def test_worker_is_not_stuck_in_a_handler_while_it_stores(handle, mail, work, supervisors):
    seconds = []

    def start(message, local):
        seconds.append(supervisors.seconds)
        transaction.on_commit(lambda: seconds.append(supervisors.seconds))

    handle(state_function(start))
    mail()

    work()

    running, storing = seconds
    assert running > 0
    assert storing == 0


def test_what_waits_behind_a_slow_handler_is_left_to_others(handle, mail, settings, supervisors):
    settings.MAIL = {**settings.MAIL, "BATCH_SECONDS": 0.001, "HANDLER_SECONDS": 0.001}

    def start(message, local):
        if local == "slow":
            wait_until(is_slow)

    handle(state_function(start))
    deliveries = [mail(f"{local}@localhost") for local in ("slow", "behind")]
    batch = Delivery.objects.claim(INCOMING, Process.objects.start("worker", INCOMING), 50)

    with containment.timed():
        worker.work(batch, registry.current_router(max_age=0), threading.Event())

    states = [(str(fresh(each).status), fresh(each).attempts) for each in deliveries]
    assert states == [("done", 1), ("queued", 0)]
    assert not is_slow()  # or nothing of the next batch would be tried


def test_worker_that_is_to_stop_claims_nothing(handle, mail):
    handle(state_function(lambda message, local: None))
    mail()
    life = Life(Process.objects.start("worker", INCOMING))
    life.stop()

    assert worker.drain(INCOMING, life) == 0


def test_handler_that_is_switched_off_takes_nothing_of_the_next_batch(handle, mail, work, settings):
    settings.MAIL = {**settings.MAIL, "BATCH_SIZE": 1}

    def first(message, local):
        message.note = "first"
        Handler.objects.filter(module="first").update(enabled=False)

    def second(message, local):
        message.note = "second"

    handle(first=[state_function(first)], second=[state_function(second)])
    deliveries = [mail(), mail()]

    work()

    assert [fresh(each).reply for each in deliveries] == ["first", "second"]


def test_order_of_the_handlers_is_that_of_their_rows(handle, mail, work, settings):
    settings.MAIL = {**settings.MAIL, "BATCH_SIZE": 1}

    def first(message, local):
        message.note = "first"
        Handler.objects.filter(module="second").update(order=-1)

    def second(message, local):
        message.note = "second"

    handle(first=[state_function(first)], second=[state_function(second)])
    deliveries = [mail(), mail()]

    work()

    assert [fresh(each).reply for each in deliveries] == ["first", "second"]


def test_batch_takes_as_many_queries_as_one_mail(handle, mail, work):
    reading = state_function(lambda message, local: None, "READING")
    handle(state_function(lambda message, local: reading), reading)
    counts = []

    for size in (1, 11):
        for _ in range(size):
            mail()
        with CaptureQueriesContext(connection) as queries:
            work()
        counts.append(len(queries))

    assert counts[0] == counts[1]


def test_one_persons_mails_of_a_batch_see_what_those_before_them_stored(handle, mail, work):
    seen = []

    def start(message, local):
        seen.append(dict(message.data))
        message.data[local] = True
        if local == "bad":
            raise LookupError
        return reading

    def read(message, local):
        seen.append(dict(message.data))
        message.data[local] = True
        if local == "bad":
            raise LookupError

    reading = state_function(read, "READING")
    handle(state_function(start), reading)
    for local in ("bad", "one", "bad", "two", "three"):
        mail(f"{local}@localhost", sender="reader@client.test")

    work()

    assert seen == [{}, {}, {"one": True}, {"one": True}, {"one": True, "two": True}]
    conversation = Conversation.objects.get()
    assert conversation.data == {"one": True, "two": True, "three": True}
    assert (conversation.state, conversation.version) == ("READING", 3)


def test_handler_that_looks_finds_what_mails_before_it_in_the_batch_moved(handle, mail, work):
    seen = []

    def start(message, local):
        if local == "look":
            seen.append(Conversation.objects.filter(state="READING").count())
        return reading

    reading = state_function(lambda message, local: None, "READING")
    handle(state_function(start), reading)
    for local in ("one", "two", "look", "three", "look"):
        mail(f"{local}@localhost")

    work()

    assert seen == [2, 4]


def test_error_finds_what_mails_before_it_in_the_batch_moved(handle, mail, work, settings):
    settings.MAIL = {**settings.MAIL, "RETRY_SECONDS": [10.0]}
    seen = []

    def start(message, local):
        if local == "bad":
            raise LookupError
        return reading

    def error(message, local):
        seen.append(Conversation.objects.filter(state="READING").count())

    reading = state_function(lambda message, local: None, "READING")
    handle(state_function(start), reading, state_function(error, "ERROR"))
    bad = mail("bad@localhost")
    work()
    before = [mail(), mail()]
    Delivery.objects.filter(pk=bad.pk).update(due_at=timezone.now())

    work()

    assert [fresh(each).status for each in (*before, bad)] == ["done", "done", "held"]
    assert seen == [2]


@pytest.mark.parametrize("through", ["save", "update"])
def test_conversation_that_a_mail_of_another_saved_is_seen_by_its_person(
    handle, mail, work, through
):
    def start(message, local):
        if local == "approve":
            rows = Conversation.objects.filter(person="member@client.test")
            if through == "update":
                rows.update(data={"approved": True})
            else:
                conversation = rows.get()
                conversation.data["approved"] = True
                conversation.save()
        elif local == "post":
            message.data["posted"] = True

    handle(state_function(start))
    Conversation.objects.create(
        handler=Handler.objects.get(module="news"), person="member@client.test"
    )
    mail("approve@localhost", sender="boss@client.test")
    mail("post@localhost", sender="member@client.test")

    work()

    member = Conversation.objects.get(person="member@client.test")
    assert member.data == {"approved": True, "posted": True}


def test_failed_handler_that_looked_takes_no_move_before_it_along(handle, mail, work):
    def start(message, local):
        if local == "bad":
            Queue.objects.create(name="lost")
            raise LookupError
        return reading

    reading = state_function(lambda message, local: None, "READING")
    handle(state_function(start), reading)
    deliveries = [mail(), mail("bad@localhost"), mail()]

    work()

    assert [fresh(each).status for each in deliveries] == ["done", "deferred", "done"]
    assert Conversation.objects.filter(state="READING").count() == 2
    assert not Queue.objects.filter(name="lost").exists()


def test_others_write_while_a_handler_thinks(handle, mail, work, together):
    @state_function
    def START(message, local):
        together(lambda: Queue.objects.update(name=F("name")))

    handle(START)
    thinking = mail()

    work()

    assert (fresh(thinking).status, fresh(thinking).reply) == (Status.DONE, "")


def test_mail_that_is_tried_again_is_handled_once_though_others_write(handle, mail, work, together):
    runs = []

    @state_function
    def START(message, local):
        runs.append(local)
        if runs == ["again"]:
            raise LookupError
        if local == "thinking":
            together(lambda: Queue.objects.update(name=F("name")))

    handle(START)
    again = mail("again@localhost")
    work()
    make_due(again)
    thinking = mail("thinking@localhost")

    work()

    assert [fresh(each).status for each in (again, thinking)] == ["done", "done"]
    assert runs == ["again", "again", "thinking"]


def test_handler_that_thinks_and_fails_is_told_of_though_others_wrote(handle, mail, work, together):
    @state_function
    def START(message, local):
        together(lambda: Queue.objects.update(name=F("name")))
        raise SMTPError(550, "Not here")

    handle(START)
    refused = mail()

    work()

    assert fresh(refused).status == Status.FAILED
    assert [message.sender for message in outgoing()] == [""]


@pytest.mark.parametrize("look", [Conversation.objects.count, lambda: None])
def test_move_that_was_overtaken_fails_alone_though_the_next_handler_catches_all(
    handle, mail, work, look
):
    def start(message, local):
        if local == "overtaken":
            message.conversation.version += 1  # as if somebody else had moved what is stored
        with contextlib.suppress(Exception):
            look()
        return reading

    reading = state_function(lambda message, local: None, "READING")
    handle(state_function(start), reading)
    Conversation.objects.create(
        handler=Handler.objects.get(module="news"), person="reader@client.test"
    )
    good = mail()
    overtaken = mail("overtaken@localhost", sender="reader@client.test")
    last = mail()
    batch = Delivery.objects.claim(INCOMING, Process.objects.start("worker", INCOMING), 50)

    worker.work(batch, registry.current_router(max_age=0), threading.Event())

    assert [fresh(each).status for each in (good, overtaken, last)] == ["done", "deferred", "done"]
    assert fresh(overtaken).reply.startswith("ConversationMoved")
    assert Conversation.objects.filter(state="READING").count() == 2


@pytest.mark.parametrize("value", [object(), float("nan")])
def test_data_that_is_no_json_fails_alone_and_redoes_nothing(handle, mail, work, value):
    runs = []

    def start(message, local):
        runs.append(local)
        message.data["when"] = value if local == "bad" else ""

    handle(state_function(start))
    good, bad, fine = mail("good@localhost"), mail("bad@localhost"), mail("fine@localhost")

    work()

    assert [fresh(each).status for each in (good, bad, fine)] == ["done", "deferred", "done"]
    assert runs == ["good", "bad", "fine"]


# Processes that die


def test_mail_whose_process_died_is_tried_alone(handle, mail, work, settings):
    settings.MAIL = {**settings.MAIL, "BATCH_SECONDS": 3600}
    together = []

    def start(message, local):
        claimed = Delivery.objects.claimed().values_list("recipient", flat=True)
        together.append(sorted(each.partition("@")[0] for each in claimed))

    handle(state_function(start))
    for number in range(2):
        mail(f"old-{number}@localhost")
    dead = Process.objects.start("worker", INCOMING)
    Delivery.objects.claim(INCOMING, dead, 50)
    dead.stop()
    release_dead()
    for number in range(2):
        mail(f"new-{number}@localhost")
    claims = []

    life = Life(Process.objects.start("worker", INCOMING))
    while batch := Delivery.objects.claim(INCOMING, life.process, 50, suspects_alone=True):
        claims.append(worker.work(batch, registry.current_router(max_age=0), life.stopping))

    assert claims == [1, 1, 2]
    assert together == [["old-0"], ["old-1"], ["new-0", "new-1"], ["new-0", "new-1"]]
    assert Delivery.objects.filter(status=Status.DONE).count() == 4
    assert {each.attempts for each in Delivery.objects.all()} == {1, 2}


def test_mail_behind_one_whose_process_died_is_not_lost_with_the_next(mail):
    mails = [mail(f"mail-{number}@localhost") for number in range(3)]

    for _ in range(5):  # the first is under suspicion from the second time on
        dying = Process.objects.start("worker", INCOMING)
        Delivery.objects.claim(INCOMING, dying, 50, suspects_alone=True)
        dying.stop()
        release_dead()

    assert [fresh(each).attempts for each in mails] == [5, 1, 1]


def die_over_the_first() -> None:
    """Have a process claim what is due and die over the first; it gave the others back."""
    dying = Process.objects.start("worker", INCOMING)
    batch = Delivery.objects.claim(INCOMING, dying, 50)
    Delivery.objects.give_back(batch[1:])
    dying.stop()
    Process.objects.filter(pk=dying.pk).update(activity="signal 9, Killed")
    release_dead()


@pytest.mark.parametrize("retries", [[10.0], [10.0] * 7])
def test_mail_that_kills_three_processes_is_held_and_counts_for_no_other(
    handle, mail, work, settings, retries
):
    settings.MAIL = {**settings.MAIL, "RETRY_SECONDS": retries}
    runs = []
    handle(state_function(lambda message, local: runs.append(local)))
    deadly = mail("deadly@localhost")
    other = mail("other@localhost")

    for _ in range(3):
        die_over_the_first()
    work()

    assert runs == ["other"]
    assert (fresh(deadly).status, fresh(deadly).queue_id) == (Status.HELD, "undeliverable")
    assert fresh(deadly).reply == (
        "LostTooOften: Three processes died while they worked on this: "
        "The process ended before this try did: signal 9, Killed"
    )
    assert [each.outcome for each in fresh(deadly).attempt_set.all()] == ["lost"] * 3 + ["held"]
    assert (fresh(other).status, fresh(other).attempts) == (Status.DONE, 1)


def test_retry_of_a_mail_that_killed_three_processes_may_kill_three_more(handle, mail, work):
    handle(state_function(lambda message, local: None))
    deadly = mail()
    for _ in range(3):
        die_over_the_first()
    work()

    Delivery.objects.filter(pk=deadly.pk).retry()
    for _ in range(2):
        die_over_the_first()
    work()

    assert (fresh(deadly).status, fresh(deadly).attempts) == (Status.DONE, 7)


def test_worker_takes_up_again_what_it_had_claimed_when_the_database_went_away(mail):
    delivery = mail()
    life = Life(Process.objects.start("worker", INCOMING))
    Delivery.objects.claim(INCOMING, life.process, 50)

    release_dead()
    still = fresh(delivery).status
    release_dead(idle=life)

    assert still == Status.CLAIMED
    assert fresh(delivery).status == Status.QUEUED


# The loop


@pytest.fixture
def running():
    """Run a worker in a thread until the test ends; return once it hears of mail."""
    threads: list[threading.Thread] = []
    lives: list[Life] = []

    def start() -> None:
        ready = threading.Event()
        threads.append(threading.Thread(target=run, args=(ready,)))
        threads[-1].start()
        assert ready.wait(DEADLINE)

    def run(ready: threading.Event) -> None:
        try:
            with living("worker", INCOMING) as life:
                lives.append(life)
                worker.serve(INCOMING, life, lambda queue: ready.set())
        finally:
            connection.close()

    yield start
    for life in lives:
        life.stop()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()


def store(mail) -> Delivery:
    """Store a mail and wake the workers, as the receiver does."""
    with transaction.atomic():
        delivery = mail()
        wakeup.notify(INCOMING)
    return delivery


def test_mail_is_handled_as_soon_as_it_is_stored(handle, mail, running):
    handle(state_function(lambda message, local: None))
    running()

    first = store(mail)
    wait_until(lambda: fresh(first).status == Status.DONE)
    second = store(mail)
    wait_until(lambda: fresh(second).status == Status.DONE)


def test_mail_that_was_stored_before_the_worker_is_handled_at_its_start(handle, mail, running):
    handle(state_function(lambda message, local: None))
    delivery = mail()

    running()

    wait_until(lambda: fresh(delivery).status == Status.DONE)


def test_mail_that_comes_due_is_handled_without_a_wake_up(handle, mail, running, settings):
    settings.MAIL = {**settings.MAIL, "RETRY_SECONDS": [0.2]}
    runs = []

    def start(message, local):
        runs.append(local)
        if len(runs) == 1:
            raise LookupError

    handle(state_function(start))
    running()

    delivery = store(mail)

    wait_until(lambda: fresh(delivery).status == Status.DONE)


def test_timer_that_comes_due_is_run_without_a_wake_up(handle, mail, running):
    reading = state_function(lambda message, local: None, "READING")
    start_state = state_function(lambda message, local: reading)

    @after(reading, seconds=0.2)
    def expire(conversation):
        return start_state

    handle(start_state, reading, expire)
    running()

    store(mail)

    wait_until(lambda: Transition.objects.filter(cause="timer", to_state="START").exists())


def test_worker_survives_that_its_connection_is_cut(on_postgres, handle, mail, running, caplog):
    runs = []

    def start(message, local):
        runs.append(local)
        if len(runs) == 3:
            connection.cursor().execute("SELECT pg_terminate_backend(pg_backend_pid())")

    handle(state_function(start))
    deliveries = [mail(f"mail-{number}@localhost") for number in range(5)]

    running()

    wait_until(lambda: all(fresh(each).status == Status.DONE for each in deliveries))


def test_same_persons_mail_is_worked_in_order_by_two_workers(handle, mail, together, settings):
    settings.MAIL = {**settings.MAIL, "BATCH_SIZE": 3}
    order: dict[str, list[str]] = {}

    def start(message, local):
        order.setdefault(message.sender, []).append(local)

    handle(state_function(start))
    people = [f"person-{number}@client.test" for number in range(3)]
    for number, person in itertools.product(range(10), people):
        mail(f"mail-{number}@localhost", sender=person)

    def drain_all() -> None:
        life = Life(Process.objects.start("worker", INCOMING))
        while Delivery.objects.filter(due_at__isnull=False).exists():
            worker.drain(INCOMING, life)

    together(drain_all, drain_all)

    wanted = [f"mail-{number}" for number in range(10)]
    assert order == dict.fromkeys(people, wanted)


def test_waiting_for_nothing_is_as_long_as_the_poll(handle):
    assert worker.idle_seconds(INCOMING, timezone.now()) == 3600


def test_waiting_ends_when_the_next_mail_is_due(mail):
    delivery = mail()
    Delivery.objects.filter(pk=delivery.pk).update(due_at=timezone.now() + timedelta(seconds=60))

    assert 0 < worker.idle_seconds(INCOMING, timezone.now()) <= 60


def test_mail_that_nobody_may_claim_yet_keeps_no_worker_awake(mail):
    mail()
    Queue.objects.get(name=INCOMING).pause()

    assert worker.idle_seconds(INCOMING, timezone.now()) == 3600
