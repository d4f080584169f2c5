"""Whose turn it is to write to SQLite: in order, for no longer than a transaction."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from django.db import connection, transaction

from mailapp import filelock, registry, turns, worker
from mailapp.models import INCOMING, Conversation, Delivery, Message, Process, Queue
from mailapp.request import MailRequest
from mailapp.routing import route
from mailapp.savepoint import atomic_until_locked, lock
from tests.waiting import wait_until

_NOBODY = 65534

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif("connection.vendor != 'sqlite'", reason="only SQLite has one writer"),
]


@pytest.fixture
def another() -> Iterator[ThreadPoolExecutor]:
    """Another thread, with a connection of its own."""
    with ThreadPoolExecutor(1) as pool:
        yield pool
        pool.submit(lambda: connection.close()).result()


def _file(which: str, database: str = "") -> Path:
    return Path(f"{database or connection.settings_dict['NAME']}-{which}")


def _is_free(which: str, database: str = "") -> bool:
    with _file(which, database).open("ab") as file:
        return filelock.hold_if_free(file)


def _wait_for_its_turn(another: ThreadPoolExecutor, do: Callable[[], None]) -> Future[None]:
    """Have the other thread ask for its turn, and return when it is the next."""

    def write() -> None:
        with turns.atomic():
            do()

    writing = another.submit(write)
    wait_until(lambda: not _is_free("next"))
    return writing


def test_who_waits_is_let_in_before_the_one_who_has_just_written(
    another: ThreadPoolExecutor,
) -> None:
    order: list[str] = []

    with turns.atomic():
        waiting = _wait_for_its_turn(another, lambda: order.append("who waited"))
    with turns.atomic():
        order.append("who had just written")

    waiting.result()
    assert order == ["who waited", "who had just written"]


def test_a_hook_of_the_commit_keeps_nobody_waiting(another: ThreadPoolExecutor) -> None:
    written: list[bool] = []

    with turns.atomic():
        waiting = _wait_for_its_turn(another, lambda: None)
        transaction.on_commit(lambda: written.append(waiting.result(60) is None))

    assert written == [True]


def test_a_transaction_that_fails_lets_the_next_one_write(another: ThreadPoolExecutor) -> None:
    waiting: list[Future[None]] = []

    def fail() -> None:
        with turns.atomic():
            waiting.append(_wait_for_its_turn(another, lambda: None))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    waiting[0].result(60)


def test_a_batch_has_its_turn_from_its_lock_to_its_end(another: ThreadPoolExecutor) -> None:
    with atomic_until_locked():
        another.submit(_write_once).result(60)
        lock()
        waiting = _wait_for_its_turn(another, lambda: None)
        assert not waiting.done()

    waiting.result(60)


def _write_once() -> None:
    with turns.atomic():
        Queue.objects.update(paused=False)


def test_a_batch_with_two_mails_of_one_person_writes_nothing_before_its_turn(
    another: ThreadPoolExecutor,
    handle: Callable[..., None],
    message: Callable[..., Message],
    process: Callable[..., Process],
) -> None:
    @route("you@(host)")
    def START(mail: MailRequest, host: str) -> None:
        mail.data["mails"] = mail.data.get("mails", 0) + 1

    handle(START)
    mails = [message(recipients=["you@localhost"]) for _ in range(2)]
    batch = Delivery.objects.claim(INCOMING, process(), 2, with_bytes=True)

    turns.take(connection)
    working = another.submit(worker.work, batch, registry.current_router(), threading.Event())
    wait_until(lambda: not _is_free("next"))
    with contextlib.ExitStack() as ours:
        ours.callback(turns.leave, connection)
        ours.enter_context(transaction.atomic())
        Queue.objects.update(paused=False)

    assert working.result(60) == len(mails)
    assert Conversation.objects.get().data == {"mails": len(mails)}


def test_a_part_of_a_transaction_needs_no_turn_of_its_own(another: ThreadPoolExecutor) -> None:
    with transaction.atomic(), turns.atomic():
        assert not _file("turn").exists() or _is_free("turn")


_TAKES_ITS_TURN = """
import os, sys
from django.conf import settings
database = {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}
settings.configure(DATABASES={"default": database})
from django.db import connection
from mailapp import turns
turns.take(connection)
os.fork()
print(flush=True)
sys.stdin.read()
"""


def test_who_is_killed_in_its_turn_keeps_nobody_waiting_nor_does_a_child_it_leaves() -> None:
    command = [sys.executable, "-c", _TAKES_ITS_TURN, str(connection.settings_dict["NAME"])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as killed:
        assert killed.stdout
        for _ in ("parent", "child"):
            killed.stdout.readline()
        assert not _is_free("turn")

        killed.kill()

        wait_until(lambda: _is_free("turn"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_where_root_has_written_first_others_have_their_turn_all_the_same(
    another: ThreadPoolExecutor, short_path: Path
) -> None:
    short_path.chmod(0o755)
    copy = connection.copy()
    copy.settings_dict["NAME"] = database = str(short_path / "mail.sqlite3")
    turns.take(copy)
    turns.leave(copy)

    os.seteuid(_NOBODY)
    try:
        another.submit(turns.take, copy).result()
    finally:
        os.seteuid(0)

    assert not _is_free("turn", database)
    another.submit(turns.leave, copy).result()


def test_without_the_files_writing_goes_on(tmp_path: Path) -> None:
    copy = connection.copy()
    copy.settings_dict["NAME"] = str(tmp_path / "gone" / "mail.sqlite3")

    turns.take(copy)
    turns.leave(copy)

    assert not list(tmp_path.iterdir())
