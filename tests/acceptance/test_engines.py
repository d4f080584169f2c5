"""What each engine keeps, with its own real workers: mail is handled, in order, come what may."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.ledger import Client, Ledger, Letter
from tests.project import Program, Project, projects
from tests.redis import NoRedis, Redis
from tests.waiting import wait_until

if TYPE_CHECKING:
    from django.db.models import QuerySet
    from pytest_django import DjangoDbBlocker

    from mailapp.models import Delivery
    from tests.project import Databases

CELERY = str(Path(sys.executable).with_name("celery"))
PROJECT = "tests.acceptance.engine_project"


class Engine(NamedTuple):
    """How a worker of an engine is started, and what it prints when it begins a task."""

    command: tuple[str, ...]
    task: str = ""
    script: str = "manage.py"


ENGINES = {
    "local": Engine(("runworker",)),
    "celery": Engine(
        ("-A", PROJECT, "worker", "--concurrency=1", "--loglevel=INFO"),
        "Task mailapp.drain",
        CELERY,
    ),
    "procrastinate": Engine(("procrastinate", "worker"), "Starting job mailapp.drain"),
    "tasks": Engine(
        ("db_worker", "--interval=0.1", "--no-reload", "--no-startup-delay"), "state=RUNNING"
    ),
}
WITH_TASKS = [name for name, engine in ENGINES.items() if engine.task]
ON_SQLITE = {"local", "tasks"}


class Office:
    """A receiver, a sweeper, and workers of one engine with the broker that it needs."""

    def __init__(self, project: Project, engine: Engine, broker: Redis | None) -> None:
        self.project = project
        self._engine = engine
        self._broker = broker
        self._workers: list[Program] = []
        os.mkfifo(project.folder / "gate")
        project.start("runmail", "--only", "receiver", until="")
        project.start("runmail", "--only", "sweeper", until="")

    def open(self) -> None:
        """Start the broker and a worker."""
        if self._broker:
            self._broker.start()
        self.start_worker()

    def close(self) -> None:
        """End the broker and all workers."""
        while self._workers:
            self.stop_worker()
        if self._broker:
            self._broker.stop()

    def start_worker(self) -> None:
        program = self.project.start(*self._engine.command, until="", script=self._engine.script)
        self._workers.append(program)

    def stop_worker(self) -> None:
        self._workers.pop().stop()

    def kill_worker(self, pid: int) -> None:
        """End the worker that has `pid`, and whoever would start another or tell of its end."""
        killed = self._workers.pop()
        os.killpg(killed.process.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        killed.process.wait()

    def tasks(self) -> int:
        """Count the tasks that were made so far, which the workers begin in their order."""
        from mailapp.models import Queue

        last = self.project.query(Queue).create(name=os.urandom(8).hex())
        self.store(people(1)[0], last.name)
        wait_until(lambda: not last.deliveries.filter(status="queued").exists())
        return sum(worker.output.count(self._engine.task) for worker in self._workers)

    def send(self, *letters: Letter) -> None:
        """Send mails one after the other."""
        with contextlib.closing(Client(self.project.receiver, Ledger())) as client:
            client.send_all(letters)

    def store(self, sender: str, queue: str = "incoming") -> None:
        """Store a mail without a wake-up."""
        from mailapp.models import Message, NewMail

        _, _, recipients, raw = letter(sender)
        mail = NewMail(raw=raw, sender=sender, recipients=recipients, queue=queue, protocol="ESMTP")
        Message.objects.using(self.project.query(Message).db).store([mail])

    def mail_from(self, *senders: str) -> QuerySet[Delivery]:
        from mailapp.models import Delivery

        return self.project.query(Delivery).filter(queue="incoming", person__in=senders)

    def wait_until_done(self, *senders: str) -> None:
        """Return once all mail of these people is handled."""
        mails = self.mail_from(*senders)
        assert mails.exists()
        wait_until(lambda: not mails.exclude(status="done").exists())


def letter(sender: str, recipient: str = "mail-count@localhost") -> Letter:
    return Letter("", sender, [recipient], b"Subject: Hello\r\n\r\nHello.\r\n")


def people(count: int) -> list[str]:
    """Addresses that no other test has."""
    return [f"{os.urandom(8).hex()}@client.test" for _ in range(count)]


def all_at_once(office: Office, senders: list[str], mails: int) -> None:
    """Have each of these people send so many mails, one after the other."""
    with ThreadPoolExecutor(len(senders)) as pool:
        list(pool.map(lambda sender: office.send(*[letter(sender)] * mails), senders))


@pytest.fixture(scope="module", params=ENGINES)
def office(
    request: pytest.FixtureRequest, project_databases: Databases, django_db_blocker: DjangoDbBlocker
) -> Iterator[Office]:
    """One for all tests of an engine, which each leave it open, with one worker."""
    from django.db import connection

    name: str = request.param
    if connection.vendor == "sqlite" and name not in ON_SQLITE:
        pytest.skip("of PostgreSQL")
    with django_db_blocker.unblock(), projects(project_databases) as make:
        project = make(DJANGO_SETTINGS_MODULE=f"{PROJECT}.settings", MAIL_ENGINE=name)
        broker = redis(project) if name == "celery" else None
        assert project.manage("migrate").returncode == 0
        office = Office(project, ENGINES[name], broker)
        office.open()
        yield office
        office.close()


def redis(project: Project) -> Redis:
    try:
        server = Redis(project.folder)
    except NoRedis as error:
        pytest.skip(str(error))
    project.environment["MAIL_BROKER"] = server.url
    return server


def test_mail_is_handled(office):
    [sender] = people(1)

    office.send(letter(sender))

    office.wait_until_done(sender)


@pytest.mark.parametrize("office", WITH_TASKS, indirect=True)
def test_a_hundred_mails_are_far_fewer_tasks(office):
    senders = people(10)
    before = office.tasks()

    all_at_once(office, senders, mails=10)

    office.wait_until_done(*senders)
    assert 1 <= office.tasks() - before <= 50


def test_mail_whose_wake_up_was_lost_is_found(office):
    [sender] = people(1)

    office.store(sender)

    office.wait_until_done(sender)


def test_mail_of_a_person_is_handled_in_order_by_two_workers(office):
    from mailapp.models import Message

    senders = people(10)
    office.start_worker()

    all_at_once(office, senders, mails=10)

    office.wait_until_done(*senders)
    answers = office.project.query(Message).filter(cause__person__in=senders)
    for sender in senders:
        of_sender = answers.filter(cause__person=sender).order_by("cause_id")
        assert list(of_sender.values_list("subject", flat=True)) == [
            f"Number {number}" for number in range(1, 11)
        ]
    office.stop_worker()


def test_what_a_killed_worker_had_in_hand_is_handled_by_another(office):
    [sender] = people(1)
    folder = office.project.folder
    office.send(letter(sender, "mail-wait@localhost"))
    [waits] = wait_until(lambda: list(folder.glob("waits.*")))

    office.kill_worker(int(waits.suffix[1:]))
    wait_until(lambda: not opens(folder / "gate"))  # until then the killed one stands there
    office.start_worker()

    wait_until(lambda: opens(folder / "gate"))
    office.wait_until_done(sender)
    attempts = office.mail_from(sender).get().attempt_set
    assert list(attempts.values_list("outcome", flat=True)) == ["lost", "done"]
    waits.unlink()


def opens(gate: Path) -> bool:
    """Let the handler through that stands at the gate, if one does."""
    with contextlib.suppress(OSError):
        os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
        return True
    return False


def test_mail_is_taken_in_while_the_engine_is_down(office):
    [sender] = people(1)
    office.close()

    office.send(letter(sender), letter(sender))

    assert office.mail_from(sender).filter(status="queued").count() == 2
    office.open()
    office.wait_until_done(sender)


@pytest.mark.any_database
def test_runmail_leaves_the_work_to_the_engine(project: Callable[..., Project]) -> None:
    from mailapp.models import Process

    installation = project(
        DJANGO_SETTINGS_MODULE=f"{PROJECT}.settings", MAIL_ENGINE="tasks", MAIL_CATCHER="", WEB=""
    )
    installation.manage("migrate")

    program = installation.start("runmail", until="Ctrl-C ends everything.")

    assert "Engine    tasks, whose workers run elsewhere" in program.output
    kinds = installation.query(Process).filter(stopped_at=None).values_list("kind", flat=True)
    assert set(kinds) == {"receiver", "relay", "sweeper"}
