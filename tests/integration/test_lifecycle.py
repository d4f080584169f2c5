"""The life of a process: its row, its heartbeat, and its end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest
from django.db import connection, transaction

from mailapp.lifecycle import living
from mailapp.models import Process
from tests.waiting import DEADLINE, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def quick_heart(settings) -> None:
    settings.MAIL = {**settings.MAIL, "HEARTBEAT_SECONDS": 0.01}


def test_process_has_a_row_while_it_lives():
    with living("worker", "incoming"):
        row = Process.objects.alive().get()
        assert (row.kind, row.queue, row.pid) == ("worker", "incoming", os.getpid())
        assert row.stopped_at is None


def test_process_that_ended_is_dead_at_once():
    with living("worker"):
        pass

    assert Process.objects.dead().get().stopped_at is not None


def test_process_whose_work_failed_is_dead_at_once():
    with pytest.raises(RuntimeError), living("worker"):
        raise RuntimeError

    assert Process.objects.dead().get().stopped_at is not None


def test_process_that_fell_silent_is_dead(settings):
    Process.objects.start("worker")
    assert not Process.objects.dead().exists()

    settings.MAIL = {**settings.MAIL, "DEAD_AFTER_SECONDS": 1e-6}

    assert not Process.objects.alive().exists()
    assert Process.objects.dead().exists()


def test_heart_beats_and_says_what_the_process_does(quick_heart):
    with living("worker") as life:
        born = life.process.started_at
        life.activity = "in the middle of it"

        row = wait_until(lambda: Process.objects.filter(activity=life.activity).first())
        wait_until(lambda: Process.objects.filter(heartbeat_at__gt=row.heartbeat_at).exists())

        assert row.heartbeat_at > born


def test_heart_goes_on_after_the_database_was_away(quick_heart, caplog):
    if connection.vendor != "postgresql":
        pytest.skip("the connection to a file does not break")
    with living("worker"):
        wait_until(lambda: others() > 0)
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT pg_terminate_backend(pid) {OTHERS}")
        wait_until(lambda: "No heartbeat" in caplog.text)
        broken = Process.objects.get().heartbeat_at

        wait_until(lambda: Process.objects.filter(heartbeat_at__gt=broken).exists())


OTHERS = (
    "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
    "AND backend_type = 'client backend'"
)


def others() -> int:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) {OTHERS}")
        return cursor.fetchone()[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_asks_the_process_to_stop(number):
    told = threading.Event()

    with living("worker") as life:
        life.on_stop(told.set)
        os.kill(os.getpid(), number)

        assert life.stopping.wait(DEADLINE)
        assert told.is_set()


def test_signals_mean_what_they_did_when_the_process_has_ended():
    before = signal.getsignal(signal.SIGTERM)

    with living("worker"):
        assert signal.getsignal(signal.SIGTERM) != before

    assert signal.getsignal(signal.SIGTERM) == before


def test_second_signal_in_the_midst_of_the_first_changes_nothing():
    calls: list[Callable[[], None]] = []

    with living("worker") as life:

        def interrupted() -> None:
            calls.append(interrupted)
            os.kill(os.getpid(), signal.SIGTERM)

        life.on_stop(interrupted)
        life.stop()

    assert calls == [interrupted]


def test_who_asks_to_be_told_after_the_signal_is_told():
    told = threading.Event()

    with living("worker") as life:
        life.stop()
        life.on_stop(told.set)

    assert told.is_set()


def test_life_in_another_thread_leaves_the_signals_alone(together):
    before = signal.getsignal(signal.SIGTERM)

    def live() -> object:
        with living("worker") as life:
            life.stop()
            return signal.getsignal(signal.SIGTERM)

    assert together(live) == [before]


def test_heart_beats_while_the_work_holds_a_transaction(quick_heart):
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has one writer at a time")

    with living("worker") as life, transaction.atomic():
        Process.objects.create(kind="relay", host="elsewhere", pid=1)
        first = Process.objects.get(pk=life.process.pk).heartbeat_at

        assert wait_until(lambda: Process.objects.get(pk=life.process.pk).heartbeat_at > first)


def test_process_says_what_it_is(process):
    assert str(process("relay")).startswith(f"relay {os.getpid()} on ")


def test_activity_that_is_too_long_is_cut(process):
    worker = process()

    worker.beat("x" * 1000)

    assert len(Process.objects.get().activity) == 255
