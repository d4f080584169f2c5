"""Wake-ups of an engine, and what its task does. Its own workers: tests/acceptance."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib import import_module
from threading import Timer
from typing import Any

import django
import pytest
from django.db import transaction
from django.utils import timezone

from mailapp import wakeup
from mailapp.engines import sweeper, turn, waker
from mailapp.models import Delivery, Process, Queue
from mailapp.routing import route
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

TASKS = "django.tasks" if django.VERSION >= (6, 0) else "django_tasks"


@route("you@(host)")
def START(message, host): ...


@pytest.fixture
def asked(settings, handle) -> Iterator[Callable[[], list[str]]]:
    """Have an engine without workers; list the queues that it has been asked to work."""
    settings.MAIL = {**settings.MAIL, "HOSTS": ["example.com"], "ENGINE": "tasks"}
    settings.TASKS = {"default": {"BACKEND": f"{TASKS}.backends.dummy.DummyBackend"}}
    handle(START)
    Queue.objects.create(name="last")
    heard: list[str] = []

    def hear(task_result: Any, **kwargs: Any) -> None:
        heard.append(task_result.args[0])

    def so_far() -> list[str]:
        turn.take("last")
        waker.ring("last")  # comes after what was rung before
        wait_until(lambda: "last" in heard)
        heard.remove("last")
        return heard

    enqueued = import_module(f"{TASKS}.signals").task_enqueued
    enqueued.connect(hear)
    yield so_far
    enqueued.disconnect(hear)


def test_many_wake_ups_are_one_task_until_a_worker_looks(asked):
    for _ in range(100):
        waker.ring("incoming")
    assert asked() == ["incoming"]

    waker.ring("incoming")
    assert asked() == ["incoming"]

    turn.take("incoming")
    waker.ring("incoming")
    assert asked() == ["incoming", "incoming"]


def test_wake_up_that_was_lost_is_repeated(asked, settings):
    waker.ring("incoming")
    assert asked() == ["incoming"]
    settings.MAIL = {**settings.MAIL, "POLL_SECONDS": 1e-6}

    waker.ring("incoming")

    assert asked() == ["incoming", "incoming"]


def test_wake_up_from_before_the_clock_was_set_back_counts_as_lost(asked):
    Queue.objects.filter(name="incoming").update(woken_at=timezone.now() + timedelta(days=1))

    waker.ring("incoming")

    assert asked() == ["incoming"]


def test_engine_is_told_after_the_commit(asked):
    with transaction.atomic():
        wakeup.notify("incoming")
        assert Queue.objects.get(name="incoming").woken_at is None

    assert asked() == ["incoming"]


def test_engine_is_not_told_of_what_was_rolled_back(asked):
    with transaction.atomic():
        wakeup.notify("incoming")
        transaction.set_rollback(True)

    assert asked() == []


@pytest.mark.parametrize("queue", ["outgoing", "undeliverable"])
def test_engine_is_not_told_of_a_queue_that_no_handler_works(asked, queue):
    wakeup.notify(queue)

    assert asked() == []


def test_engine_is_not_told_of_a_paused_queue(asked):
    Queue.objects.get(name="incoming").pause()

    wakeup.notify("incoming")

    assert asked() == []


def test_engine_that_fails_is_a_line_in_the_log(asked, settings, caplog):
    settings.TASKS = {"default": {"BACKEND": "elsewhere.Backend"}}

    wakeup.notify("incoming")

    wait_until(lambda: "The engine was not told of mail in incoming" in caplog.text)


def test_task_works_what_is_due(asked, delivery):
    delivered = [delivery(), delivery()]
    assert asked() == ["incoming"]

    turn.take("incoming")

    for row in delivered:
        row.refresh_from_db()
        assert row.status == "done"
    assert asked() == ["incoming"]


def test_tasks_of_one_process_share_its_row(asked, delivery):
    for _ in range(3):
        delivery()
        turn.take("incoming")

    [row] = Process.objects.filter(kind="worker", queue="incoming")
    assert row.stopped_at is not None
    assert row.attempt_set.count() == 3


def test_row_that_was_cleaned_away_is_made_anew(asked, delivery):
    delivery()
    turn.take("incoming")
    Process.objects.all().delete()
    delivery()

    turn.take("incoming")

    assert Delivery.objects.filter(status="done").count() == 2


def test_task_without_work_leaves_no_row(asked):
    turn.take("incoming")

    assert not Process.objects.filter(queue="incoming").exists()


def test_task_with_work_for_two_asks_for_another(asked, message, settings):
    settings.MAIL = {**settings.MAIL, "BATCH_SIZE": 2}
    message(recipients=["you@example.com"] * 3)
    assert asked() == ["incoming"]

    turn.take("incoming")

    assert asked() == ["incoming", "incoming"]


def test_task_asks_for_no_other_for_mail_that_nobody_may_claim(asked, message, process, settings):
    settings.MAIL = {**settings.MAIL, "BATCH_SIZE": 2}
    message(recipients=["you@example.com"] * 5)  # of one person
    Delivery.objects.claim("incoming", process(), 1)
    assert asked() == ["incoming"]

    turn.take("incoming")

    assert asked() == ["incoming"]


def test_task_whose_time_is_up_asks_for_another(asked, handle, message, monkeypatch):
    @route("you@(host)")
    def START(message, host):
        wait_until(lambda: not any(isinstance(each, Timer) for each in threading.enumerate()))

    handle(START)
    monkeypatch.setattr(turn, "_SECONDS", 0.01)
    message(recipients=["you@example.com"])
    assert asked() == ["incoming"]

    turn.take("incoming")

    assert asked() == ["incoming", "incoming"]


def test_sweep_wakes_the_queues_that_have_due_mail(asked, message):
    message(recipients=["you@example.com"])
    assert asked() == ["incoming"]
    Queue.objects.update(woken_at=None)

    sweeper.sweep()

    assert asked() == ["incoming", "incoming"]


def test_sweep_of_empty_queues_wakes_nobody(asked):
    sweeper.sweep()

    assert asked() == []
