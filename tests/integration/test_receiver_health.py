"""A database that is away and a disk that is full are told to the client, and mended alone."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from django.db import OperationalError

from mailapp.receiver import replies
from mailapp.receiver.commits import Commits, Hired
from mailapp.receiver.destination import HandlersDestination
from mailapp.receiver.health import Health
from mailapp.receiver.recipients import Recipients
from mailapp.routing import Router, accepts, read_module
from mailapp.testing.smtp import hire_thread
from tests.integration import receiving_handlers
from tests.integration.receiving import (
    HOSTS,
    Receiver,
    deliver,
    our_settings,
    receiving,
    router,
)
from tests.waiting import DEADLINE, wait_until


class _Database:
    """A database that can be taken away."""

    def __init__(self) -> None:
        self.away = False

    def ask(self) -> None:
        if self.away:
            raise OperationalError("connection refused\nERROR a forged line")


def _hire() -> Hired:
    return hire_thread(lambda work: [1 for _ in work.mails])


@pytest.fixture
def database() -> _Database:
    return _Database()


@pytest.fixture
def receiver(database: _Database) -> Iterator[Receiver]:
    settings = our_settings(DATABASE_AWAY_SECONDS=0.2)

    @asynccontextmanager
    async def destination() -> AsyncIterator[HandlersDestination]:
        commits = Commits(_hire)
        await commits.start()
        with ThreadPoolExecutor(1) as thread:
            health = Health([Path.cwd()], database.ask, thread)
            look_after = asyncio.create_task(health.look_after())
            yield HandlersDestination(settings, Recipients(router), commits, health, thread)
            look_after.cancel()
            await commits.stop(DEADLINE)

    with receiving(destination(), settings=settings) as receiver:
        yield receiver


def test_an_absent_database_puts_mail_off_and_comes_back_by_itself(
    receiver: Receiver, database: _Database, caplog: pytest.LogCaptureFixture
) -> None:
    with receiver.greeted() as client:
        assert deliver(client).startswith(b"250")

        database.away = True
        wait_until(lambda: deliver(client) == replies.DATABASE_AWAY)
        database.away = False
        wait_until(lambda: deliver(client).startswith(b"250"))

    assert all("\n" not in record.getMessage() for record in caplog.records)


def test_a_database_that_is_away_for_long_closes_the_door(
    receiver: Receiver, database: _Database
) -> None:
    database.away = True
    wait_until(lambda: _greeting(receiver) == replies.DATABASE_AWAY_LONG)

    database.away = False
    wait_until(lambda: _greeting(receiver).startswith(b"220"))


def _greeting(receiver: Receiver) -> bytes:
    with receiver.connect() as client:
        return client.read_reply()


def test_a_folder_that_is_gone_is_looked_for_where_it_would_be_made(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as thread:
        health = Health([tmp_path / "not" / "there"], lambda: None, thread)

    assert health.free_space > 0


def test_a_storer_that_hangs_puts_mail_off() -> None:
    go_on = threading.Event()

    def hire() -> Hired:
        return hire_thread(lambda work: [go_on.wait(DEADLINE) and 1 for _ in work.mails])

    settings = our_settings(COMMIT_SECONDS=0.05)

    @asynccontextmanager
    async def destination() -> AsyncIterator[HandlersDestination]:
        commits = Commits(hire)
        await commits.start()
        with ThreadPoolExecutor(1) as thread:
            health = Health([Path.cwd()], lambda: None, thread)
            yield HandlersDestination(settings, Recipients(router), commits, health, thread)
            await commits.stop(DEADLINE)

    with receiving(destination(), settings=settings) as receiver, receiver.greeted() as client:
        assert deliver(client).startswith(b"451 4.3.0 Message could not be stored")
        wait_until(lambda: deliver(client) == replies.DATABASE_AWAY)

        go_on.set()
        wait_until(lambda: deliver(client).startswith(b"250"))


def test_a_disk_that_is_nearly_full_puts_mail_off(receiver: Receiver) -> None:
    destination = receiver.listener.destination
    assert isinstance(destination, HandlersDestination)
    destination._settings = our_settings(MIN_FREE_SPACE=10**18)

    with receiver.greeted() as client:
        assert client.ask(b"MAIL FROM:<>") == replies.DISK_LOW


def test_handler_that_does_not_tell_in_time_whether_a_recipient_exists_is_not_waited_for() -> None:
    told = threading.Event()

    @accepts
    def is_known(address: str, host: str) -> bool:
        return told.wait(DEADLINE)

    handler = read_module(receiving_handlers)
    assert handler is not None
    slow = Router([dataclasses.replace(handler, accepts=is_known)], hosts=HOSTS)

    async def ask() -> None:
        with ThreadPoolExecutor(1) as asking:
            destination = HandlersDestination(
                our_settings(COMMIT_SECONDS=0.01),
                Recipients(lambda: slow),
                Commits(_hire),
                Health([], lambda: None, asking),
                asking,
            )
            try:
                await destination.refusal("reader@example.com")
            finally:
                told.set()

    with pytest.raises(TimeoutError):
        asyncio.run(ask())
