"""Wake-ups between processes: by sockets beside SQLite, by NOTIFY on PostgreSQL."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from django.db import connection, transaction

from mailapp import wakeup
from mailapp.conf import mail_settings
from mailapp.wakeup import Listener
from tests.waiting import DEADLINE, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

FOREVER = 3600.0  #: seconds that no test waits, unless a wake-up is lost


@pytest.fixture
def listen() -> Iterator[Callable[[str], Listener]]:
    """Listen to a queue until the end of the test."""
    with ExitStack() as stack:

        def start(queue: str) -> Listener:
            listener = stack.enter_context(wakeup.listen(queue))
            if connection.vendor == "postgresql":
                listener.connection.inc_thread_sharing()  # `waiting` uses it in a thread
            return listener

        yield start


@pytest.fixture
def waiting() -> Iterator[Callable[[Listener], Future[None]]]:
    """Let a listener wait in a thread; the future is done when it woke up."""
    listeners = []
    with ThreadPoolExecutor() as pool:

        def wait(listener: Listener) -> Future[None]:
            listeners.append(listener)
            return pool.submit(listener.wait, FOREVER)

        yield wait
        for listener in listeners:
            listener.wake()


def sockets() -> list[Path]:
    return list((Path(mail_settings().RUN_DIR) / "wake").glob("*"))


def only_on(vendor: str) -> None:
    if connection.vendor != vendor:
        pytest.skip(f"of {vendor}")


@pytest.mark.parametrize("queue", ["incoming", "x" * 48])
def test_waiter_is_woken_by_another_connection(listen, waiting, together, queue):
    woken = waiting(listen(queue))

    together(lambda: wakeup.notify(queue))

    woken.result(DEADLINE)


def test_each_of_several_waiters_is_woken(listen, waiting):
    woken = [waiting(listen("incoming")) for _ in range(3)]

    wakeup.notify("incoming")

    for future in woken:
        future.result(DEADLINE)


def test_who_comes_to_a_folder_that_is_known_is_woken_too(listen, waiting):
    only_on("sqlite")
    listen("incoming")
    os.utime(wakeup._folder(), ns=(0, 0))  # as if nobody had come or gone for long
    wakeup.notify("incoming")
    late = listen("incoming")

    wakeup.notify("incoming")

    waiting(late).result(DEADLINE)


def test_who_comes_as_the_folder_is_looked_at_is_woken_too(listen, waiting):
    only_on("sqlite")
    listen("incoming")
    moment = time.time_ns()
    os.utime(wakeup._folder(), ns=(moment, moment))
    wakeup.notify("incoming")
    late = listen("incoming")
    os.utime(wakeup._folder(), ns=(moment, moment))  # in the same tick of the file system

    wakeup.notify("incoming")

    waiting(late).result(DEADLINE)


def test_wake_up_before_the_wait_is_not_lost(listen, waiting):
    listener = listen("incoming")

    wakeup.notify("incoming")

    waiting(listener).result(DEADLINE)


def test_wake_up_inside_a_transaction_comes_with_the_commit(listen, waiting):
    listener = listen("incoming")
    with transaction.atomic():
        wakeup.notify("incoming")
        listener.wait(0)

    waiting(listener).result(DEADLINE)


def test_process_that_stops_wakes_itself(listen, waiting):
    listener = listen("incoming")
    woken = waiting(listener)

    listener.wake()

    woken.result(DEADLINE)


def test_wish_to_stop_before_the_wait_is_not_lost(listen, waiting):
    listener = listen("incoming")

    listener.wake()

    waiting(listener).result(DEADLINE)


def test_many_wake_ups_that_nobody_reads_do_no_harm(listen, waiting):
    listener = listen("incoming")

    for _ in range(2000):
        wakeup.notify("incoming")
        listener.wake()

    waiting(listener).result(DEADLINE)


def test_wait_ends_without_a_wake_up(listen):
    listen("incoming").wait(0.01)


def test_notification_without_a_listener_does_no_harm():
    wakeup.notify("incoming")


def test_listener_leaves_no_socket_behind():
    only_on("sqlite")

    with wakeup.listen("incoming"):
        assert len(sockets()) == 1

    assert sockets() == []


def test_socket_of_a_dead_process_is_removed(listen, waiting):
    only_on("sqlite")
    dead = wakeup.listen("incoming")
    dead.__enter__()
    dead.socket.close()
    listener = listen("incoming")

    wakeup.notify("incoming")

    waiting(listener).result(DEADLINE)
    assert len(sockets()) == 1
    dead.__exit__(None, None, None)


def test_socket_that_cannot_be_removed_keeps_nobody_asleep(listen, waiting, monkeypatch):
    only_on("sqlite")
    for dead in [listen("incoming") for _ in range(5)]:  # so that some come first
        dead.socket.close()
    listener = listen("incoming")

    with monkeypatch.context() as disk:
        disk.setattr(os, "unlink", os.rmdir)  # which fails, as on a disk that is read-only
        wakeup.notify("incoming")

    waiting(listener).result(DEADLINE)
    assert len(sockets()) == 6


def test_wake_up_that_is_rolled_back_is_not_sent(listen):
    only_on("postgresql")
    listener = listen("incoming")

    with transaction.atomic():
        wakeup.notify("incoming")
        transaction.set_rollback(True)

    assert list(listener.connection.connection.notifies(timeout=0)) == []


def test_listener_whose_connection_broke_listens_again(listen, waiting, caplog):
    only_on("postgresql")
    listener = listen("incoming")
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(%s)", [listener.connection.connection.info.backend_pid]
        )

    wait_until(lambda: listener.wait(0.01) or "only polling" in caplog.text)
    listener.wait(0)
    wakeup.notify("incoming")

    waiting(listener).result(DEADLINE)


def test_listener_polls_while_the_database_is_away(listen, waiting, caplog, monkeypatch):
    only_on("postgresql")
    listener = listen("incoming")
    listener.connection.close()
    monkeypatch.setitem(listener.connection.settings_dict, "PORT", "1")

    listener.wait(0.01)
    assert "only polling" in caplog.text

    woken = waiting(listener)
    listener.wake()
    woken.result(DEADLINE)


@pytest.mark.any_database
def test_who_wakes_a_listener_that_has_just_ended_does_no_harm():
    with wakeup.listen("incoming") as listener:
        pass

    listener.wake()
