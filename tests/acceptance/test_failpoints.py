"""Each commit, fsync, rename and removal fails once: nothing is lost, nothing is half done.

What has failed is found out by running: who adds an act that can fail need not add it here.
"""

from __future__ import annotations

import contextlib
import mailbox
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from django.db import connections
from django.db.models import F

from tests.failpoints import FAILURES, Failpoints
from tests.ledger import Client, Ledger, Letter
from tests.waiting import DEADLINE, wait_until

if TYPE_CHECKING:
    from tests.project import Program, Project

SENDERS = 3
MAILS = {
    "small": "mail-endure",
    "later": "mail-endure",
    "large": "mail-endure",
    "last": "mail-endure",
    "note": "mail-note",
}  #: what each sender sends, in order, and to whom
FILLER = "Some text.\r\n" * 2000  #: more than is kept in a row
PARTS = ("receiver", "relay", "worker")
YEARS = timedelta(days=800)
WHY = re.compile("The database does not answer: .|The storer cannot start: .")


class Trial:
    """An installation in which each act fails once, and what was sent to it."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.points = Failpoints(project.folder / "failpoints")
        self.ledger = Ledger()
        self._numbers = count()

    def send(self) -> None:
        """Let new senders send all their mails, each until it is taken; return when all is done."""
        senders = [f"reader-{next(self._numbers)}@client.test" for _ in range(SENDERS)]
        with ThreadPoolExecutor(SENDERS) as pool:
            list(pool.map(self._send_all, senders))
        wait_until(lambda: not self._unfinished())

    def _send_all(self, sender: str) -> None:
        with contextlib.closing(Client(self.project.receiver, self.ledger)) as client:
            client.send_all(letters(sender))

    def _unfinished(self) -> bool:
        from mailapp.models import Delivery, Timer

        unfinished = self.project.query(Delivery).exclude(status__in=["done", "failed", "held"])
        return self.project.query(Timer).exists() or unfinished.exists()

    def start_until_it_works(self, part: str) -> list[Program]:
        """Start a part again and again, until none of what it does at its start fails any more.

        To be called in a thread of its own.
        """
        programs: list[Program] = []
        try:
            while not programs or self._has_ended(programs[-1]):
                programs.append(self.project.start("runmail", "--only", part, until=""))
        finally:
            connections.close_all()  # of this thread
        return programs

    def _has_ended(self, program: Program) -> bool:
        """Wait until a program works or has ended; say whether it has ended."""
        wait_until(lambda: program.process.poll() is not None or self._works(program))
        return program.process.poll() is not None

    def _works(self, program: Program) -> bool:
        from mailapp.models import Process

        here = self.project.query(Process).filter(pid=program.process.pid)
        return here.filter(heartbeat_at__gt=F("started_at") + timedelta(seconds=1)).exists()

    def all_grows_old(self) -> None:
        """Let nothing be young enough to be kept."""
        from mailapp.models import Attempt, Delivery, Process, Transition

        for model, moment in [
            (Attempt, "ended_at"),
            (Delivery, "created_at"),
            (Process, "heartbeat_at"),
            (Transition, "at"),
        ]:
            self.project.query(model).update(**{moment: F(moment) - YEARS})
        for file in self.files():
            os.utime(file, (0, 0))

    def files(self) -> list[Path]:
        """All of the storage, whole or half."""
        return [path for path in (self.project.folder / "large").rglob("*") if path.is_file()]


def letters(sender: str) -> Iterator[Letter]:
    for number, (kind, recipient) in enumerate(MAILS.items()):
        name = f"{number}.{kind}.{sender}"
        head = f"From: {sender}\r\nSubject: {name}\r\nMessage-ID: <{name}>\r\n\r\n"
        raw = (head + FILLER * (kind == "large")).encode()
        yield Letter(name, sender, [f"{recipient}@localhost"], raw)


@pytest.fixture
def trial(project: Callable[..., Project]) -> Callable[[str], Trial]:
    """Make an installation in which acts will fail: `trial("full")`."""

    def make(failure: str) -> Trial:
        settings = "tests.acceptance.failing_settings"
        return Trial(project(DJANGO_SETTINGS_MODULE=settings, MAIL_FAILURE=failure, WEB=""))

    return make


@pytest.mark.parametrize("failure", FAILURES)
def test_what_was_answered_250_is_worked_exactly_once_whatever_fails(
    trial: Callable[[str], Trial], failure: str, request: pytest.FixtureRequest
) -> None:
    running = trial(failure)
    program = running.project.start("runmail", until="Ctrl-C ends everything.")
    running.points.arm()

    running.send()
    if request.config.getoption("failpoints") == "each":
        send_while_each_fails_alone(running)
    assert program.stop() == 0

    assert_each_part_failed(running)
    assert_each_mail_was_worked_once(running)
    assert_each_conversation_saw_its_mail_in_order(running)
    assert_each_answer_was_sent(running)
    assert_nothing_stays_when_all_is_old(running)


def send_while_each_fails_alone(trial: Trial) -> None:
    for act in trial.points.reached():
        print(act)
        trial.points.rearm(act)
        trial.send()


def assert_each_part_failed(trial: Trial) -> None:
    """In each of the ways in which it can, or the trial was none."""
    failed: dict[str, set[str]] = {}
    for name in trial.points.reached():
        part, kind, function, *_ = name.split()
        failed.setdefault(part, set()).update({kind, function.rpartition(".")[0]})

    assert failed["receiver"] >= {"write", "fsync"}
    assert failed["storer"] >= {"models.message.MessageQuerySet"}
    assert failed["worker"] >= {"commit", "write", "fsync", "rename"}
    assert failed["relay"] >= {"commit", "write"}
    assert failed["catcher"] >= {"fsync", "rename"}


def assert_each_mail_was_worked_once(trial: Trial) -> None:
    from mailapp.models import Attempt, Delivery, Message, Transition

    query = trial.project.query
    names = query(Message).exclude(protocol="").values_list("subject", flat=True)
    deliveries = query(Delivery)
    with_state = deliveries.filter(recipient="mail-endure@localhost")
    moves = query(Transition).filter(cause="mail")
    ends = query(Attempt).filter(outcome="done")

    assert Counter(names) == dict.fromkeys(trial.ledger.accepted, 1)
    assert set(deliveries.values_list("status", flat=True)) == {"done"}
    assert ids(moves, "delivery") == ids(with_state)
    assert ids(ends, "delivery") == ids(deliveries)


def ids(rows, key: str = "pk") -> list[int]:
    return sorted(rows.values_list(key, flat=True))


def assert_each_conversation_saw_its_mail_in_order(trial: Trial) -> None:
    from mailapp.models import Conversation, Message, Transition

    for conversation in trial.project.query(Conversation):
        sent = trial.project.query(Message).filter(
            sender=conversation.person, deliveries__recipient="mail-endure@localhost"
        )
        history = trial.project.query(Transition).filter(conversation=conversation)
        assert conversation.data["seen"] == list(
            sent.order_by("pk").values_list("subject", flat=True)
        )
        assert conversation.state == "REMINDED"
        assert conversation.version == history.count()
        assert history.filter(cause="timer").count() == 1


def assert_each_answer_was_sent(trial: Trial) -> None:
    from mailapp.models import Delivery, Message

    answers = trial.project.query(Message).filter(protocol="")
    causes = Counter(answers.values_list("cause__message__subject", flat=True))
    reminders = {None: len(trial.ledger.accepted) // len(MAILS)}
    outgoing = trial.project.query(Delivery).filter(queue="outgoing")
    caught = Counter(mail["Message-ID"] for mail in mailbox.Maildir(trial.project.caught))

    assert (
        causes == {name: 2 if "large" in name else 1 for name in trial.ledger.accepted} | reminders
    )
    assert ids(outgoing, "message") == ids(answers)
    assert caught.keys() == set(answers.values_list("message_id", flat=True))
    assert max(caught.values()) <= 2, "sent again only what the catcher did not say it had"


def assert_nothing_stays_when_all_is_old(trial: Trial) -> None:
    """No file that is half, or that no row names, and no message without a delivery."""
    from mailapp.models import Attempt, Delivery, Message, Process, RawMessage, Transition

    trial.all_grows_old()
    wait_until(lambda: trial.project.manage("cleanmail").returncode == 0, seconds=4 * DEADLINE)
    trial.project.manage("cleanmail")  # a file that could not be removed goes the next time

    for model in (Attempt, Delivery, Message, RawMessage, Transition, Process):
        assert not trial.project.query(model).exists()
    assert trial.files() == []


def test_part_that_cannot_start_says_why_in_one_line_and_starts_the_next_time(
    trial: Callable[[str], Trial],
) -> None:
    starting = trial("broken")
    starting.points.arm()

    with ThreadPoolExecutor(len(PARTS)) as pool:
        starts = list(pool.map(starting.start_until_it_works, PARTS))

    for *failed, works in starts:
        assert failed
        for each in failed:
            assert WHY.search(each.output), each.output
        assert works.stop() == 0
