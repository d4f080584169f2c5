"""Kill any part at any moment: what was answered 250 is worked exactly once, and sent."""

from __future__ import annotations

import contextlib
import mailbox
import math
import os
import random
import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from django.db import transaction

from mailapp.conf import mail_settings
from tests.gate import open_gate
from tests.ledger import Client, Ledger, Letter
from tests.waiting import wait_until

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from mailapp.models import Attempt, Delivery
    from tests.project import Program, Project

PARTS = ("receiver", "storer", "worker", "relay")
CLIENTS = 10
MAILS = 100  #: in the middle of which each part is killed once
TICK = 0.1  #: seconds; by less, the clock of a file system is behind

RAW = """\
From: {sender}\r
To: mail-count@localhost\r
Subject: {name}\r
Message-ID: <{name}>\r
\r
{text}"""


class Kills:
    """Ends each part without a warning, again and again, at moments that a seed decides.

    A moment is a number of mails, as somebody on their way counts them: who counts has just
    had them from the part before, and the part behind has not.
    """

    def __init__(self, project: Project, ledger: Ledger, seed: int = 0) -> None:
        self._project = project
        self._ledger = ledger
        self._chance = random.Random(seed)
        self._victims: list[int] = []

    def run(self, kills: int) -> None:
        """Kill each part once in the middle of each 100 mails, until so many are killed.

        None waits until another part is back.
        """
        waiting = {part: self._moments(part, kills) for part in PARTS}
        while any(waiting.values()):
            part = wait_until(lambda: self._due(waiting))
            waiting[part].pop(0)
            self.kill(part)

    def _moments(self, part: str, kills: int) -> list[Moment]:
        counts = {
            "receiver": [self._accepted],
            "storer": [self._accepted],
            "worker": [self._accepted, self._worked],
            "relay": [self._worked, self._caught],
        }
        return [
            Moment(
                self._chance.choice(counts[part]),
                turn * MAILS + self._chance.randrange(1, MAILS - CLIENTS),
            )
            for turn in range(len(range(PARTS.index(part), kills, len(PARTS))))
        ]

    def _due(self, waiting: dict[str, list[Moment]]) -> str | None:
        due = (part for part, moments in waiting.items() if moments and moments[0].has_come())
        return next((part for part in due if self.running(part)), None)

    def kill(self, part: str) -> None:
        """Kill one process of that part, as soon as there is one."""
        victim = self._chance.choice(wait_until(lambda: self.running(part)))
        os.kill(victim, signal.SIGKILL)
        self._victims.append(victim)

    def running(self, part: str) -> list[int]:
        running = self._storers() if part == "storer" else self._registered(part)
        return [pid for pid in running if pid not in self._victims]

    def _registered(self, part: str) -> list[int]:
        from mailapp.models import Process

        rows = self._project.query(Process).filter(kind=part, stopped_at=None).order_by("pk")
        return list(rows.values_list("pid", flat=True))

    def _storers(self) -> list[int]:
        return [pid for pid in self._project.processes() if "--storer-fd" in command_line(pid)]

    def _accepted(self) -> int:
        return len(self._ledger.accepted)

    def _worked(self) -> int:
        from mailapp.models import Transition

        return self._project.query(Transition).count() + self._held()

    def _caught(self) -> int:
        with os.scandir(self._project.caught / "new") as mails:
            return sum(1 for _ in mails) + self._held()

    def _held(self) -> int:
        """What met three kills, and so does not come before all kills have."""
        return held(self._project).count()


def command_line(pid: int) -> str:
    """What a process was started with; empty when it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


class Moment(NamedTuple):
    """When somebody has counted so many mails."""

    count: Callable[[], int]
    number: int

    def has_come(self) -> bool:
        return self.count() >= self.number


def letters(client: int, count: int) -> Iterator[Letter]:
    """What one client sends. Every tenth mail is too large for the database."""
    sender = f"reader-{client}@client.test"
    for number in range(count):
        name = f"{number}.{sender}"
        text = "Some text.\r\n" * (2000 if number % 10 == 9 else 1)
        raw = RAW.format(sender=sender, name=name, text=text).encode()
        yield Letter(name, sender, ["mail-count@localhost"], raw)


def mails_for(kills: int) -> int:
    """How many mails are sent meanwhile."""
    return MAILS * math.ceil(kills / len(PARTS))


def send_while_killing(project: Project, kills: int, seed: int) -> Ledger:
    """Let clients send while the parts are killed; return their ledger."""
    ledger = Ledger()

    def send_share(number: int) -> None:
        with contextlib.closing(Client(project.receiver, ledger)) as client:
            client.send_all(letters(number, mails_for(kills) // CLIENTS))

    with ThreadPoolExecutor(CLIENTS) as pool:
        sending = [pool.submit(send_share, number) for number in range(CLIENTS)]
        Kills(project, ledger, seed).run(kills)
        for each in sending:
            each.result()
    return ledger


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """What decides the moments; shown when the test fails."""
    seed: int = request.config.getoption("seed")
    print(f"Repeat this with --seed={seed}")
    return seed


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """How often a part is killed."""
    kills: int = request.config.getoption("kills")
    return kills


def test_what_was_answered_250_is_worked_exactly_once_and_sent_whatever_is_killed(
    project: Callable[..., Project], kills: int, seed: int
) -> None:
    running = project(DJANGO_SETTINGS_MODULE="tests.acceptance.settings", WEB="")
    program = running.start("runmail", until="Ctrl-C ends everything.")

    ledger = send_while_killing(running, kills, seed)
    finish(running, kills)
    retry_what_met_three_kills(running)
    finish(running, kills)

    assert program.process.poll() is None
    assert len(ledger.accepted) == mails_for(kills)
    assert_each_mail_is_stored_once(running, set(ledger.accepted))
    assert_each_delivery_is_done_once(running)
    assert_conversations_agree_with_their_history(running)
    assert_each_answer_is_sent(running)


def test_retry_of_a_mail_that_was_stored_is_not_stored_again_after_a_kill(
    project: Callable[..., Project],
) -> None:
    running = project(DJANGO_SETTINGS_MODULE="tests.acceptance.settings", WEB="")
    running.start("runmail", until="Ctrl-C ends everything.")
    ledger = Ledger()
    kills = Kills(running, ledger)
    sent = dict(zip(["receiver", "storer"], letters(client=0, count=2), strict=True))

    for part, letter in sent.items():
        for _ in range(2):  # the client cannot know, so it sends again what was stored
            with contextlib.closing(Client(running.receiver, ledger)) as client:
                client.send(letter)
                kills.kill(part)
        with contextlib.closing(Client(running.receiver, ledger)) as client:
            client.send(letter)
    finish(running, kills=4)

    assert_each_mail_is_stored_once(running, {letter.name for letter in sent.values()})
    assert_each_delivery_is_done_once(running)


def finish(project: Project, kills: int) -> None:
    """Return when nothing is due or in hand; the time that it may take grows with the work."""
    from mailapp.models import Delivery

    unfinished = project.query(Delivery).filter(status__in=["queued", "claimed"])
    wait_until(lambda: not unfinished.exists(), seconds=30 + 3 * kills)


def held(project: Project) -> QuerySet[Delivery]:
    """The mail that met three kills. Among a thousand there is some."""
    from mailapp.models import Delivery

    return project.query(Delivery).filter(status="held", reply__startswith="LostTooOften")


def retry_what_met_three_kills(project: Project) -> None:
    """Do as an operator does."""
    print(f"{held(project).count()} mails met three kills")
    held(project).retry()


def assert_each_mail_is_stored_once(project: Project, sent: set[str]) -> None:
    """Also one whose 250 was lost with a receiver, so that its client sent it again."""
    from mailapp.models import Message

    names = project.query(Message).exclude(protocol="").values_list("subject", flat=True)

    assert Counter(names) == dict.fromkeys(sent, 1)


def assert_each_delivery_is_done_once(project: Project) -> None:
    from mailapp.models import Attempt, Delivery, Message, Transition

    incoming = project.query(Delivery).filter(queue="incoming")
    ids = set(incoming.values_list("pk", flat=True))
    transitions = project.query(Transition).values_list("delivery_id", flat=True)
    answers = project.query(Message).filter(protocol="").values_list("cause_id", flat=True)
    left = project.query(Delivery).exclude(status="done").order_by()
    tries = project.query(Attempt).filter(delivery__in=incoming)
    ends = tries.exclude(outcome="lost").exclude(reply__startswith="LostTooOften")

    assert Counter(left.values_list("status", "reply")) == {}
    assert Counter(transitions) == dict.fromkeys(ids, 1)
    assert Counter(answers) == dict.fromkeys(ids, 1)
    assert Counter(ends.values_list("delivery_id", "outcome")) == {(id, "done"): 1 for id in ids}
    for delivery in project.query(Delivery).prefetch_related("attempt_set"):
        assert_all_attempts_are_noted(delivery)


def assert_all_attempts_are_noted(delivery: Delivery) -> None:
    numbers = [attempt.number for attempt in delivery.attempt_set.all()]

    assert numbers == list(range(1, delivery.attempts + 1))


def assert_conversations_agree_with_their_history(project: Project) -> None:
    """Each mail in order of arrival, but for those that an operator has retried later."""
    from mailapp.models import Conversation, Delivery

    retried = set(
        project.query(Delivery).filter(attempts_before__gt=0).values_list("pk", flat=True)
    )
    conversations = project.query(Conversation).prefetch_related("transitions")

    assert len(conversations) == CLIENTS
    for conversation in conversations:
        history = list(conversation.transitions.all())
        assert conversation.data == {"count": len(history)}
        assert conversation.version == len(history)
        assert conversation.state == history[-1].to_state
        for before, after in pairwise(history):
            assert before.to_state == after.from_state
        ids = [move.delivery_id for move in history if move.delivery_id not in retried]
        assert ids == sorted(ids), "worked in order of arrival"


def assert_each_answer_is_sent(project: Project) -> None:
    """Each try that is done sent one mail; of those of a killed relay, one for each connection."""
    from mailapp.models import Attempt

    tries = project.query(Attempt).filter(delivery__queue="outgoing")
    sent = Counter(copies_by_try(project, tries.select_related("delivery__message")))
    repeated = Counter(each.process_id for each in sent if each.outcome == "lost")
    print(f"{repeated.total()} of {sent.total()} answers were sent again: {repeated}")

    assert set(sent.values()) == {1}
    assert {each for each in sent if each.outcome == "done"} == set(tries.filter(outcome="done"))
    assert max(repeated.values(), default=0) <= mail_settings().RELAY_CONNECTIONS


def copies_by_try(project: Project, tries: Iterable[Attempt]) -> Iterator[Attempt]:
    """The try that sent it, for each mail at the sink: the last that had begun by then."""
    by_mail: dict[str, list[Attempt]] = defaultdict(list)
    for each in sorted(tries, key=lambda each: each.number):
        by_mail[each.delivery.message.message_id].append(each)
    for mail in mailbox.Maildir(project.caught):
        arrived = datetime.fromtimestamp(mail.get_date() + TICK, UTC)
        yield [each for each in by_mail[mail["Message-ID"]] if each.started_at <= arrived][-1]


@pytest.fixture
def alone(project: Callable[..., Project]) -> Project:
    """A receiver without a supervisor, in which processes soon take each other for dead.

    The handler of `mail-wait` waits at a gate.
    """
    alone = project(DJANGO_SETTINGS_MODULE="tests.acceptance.impatient_settings", WEB="")
    os.mkfifo(alone.folder / "gate")
    alone.start("runmail", "--only", "receiver", until="")
    return alone


def send_to_the_gate(project: Project) -> None:
    letter = Letter("wait", "reader@client.test", ["mail-wait@localhost"], b"Subject: Wait\r\n\r\n")
    with contextlib.closing(Client(project.receiver, Ledger())) as client:
        client.send(letter)


def start_worker_at_gate(project: Project) -> Program:
    """Return once a worker of its own has claimed the mail, and its handler waits."""
    worker = project.start("runmail", "--only", "worker", until="")
    wait_until((project.folder / f"waits.{worker.process.pid}").exists)
    return worker


def finish_without_relay(project: Project) -> None:
    from mailapp.models import Delivery

    wait_until(lambda: project.query(Delivery).filter(queue="incoming", status="done").exists())


def assert_worked_once(project: Project, outcomes: list[str]) -> None:
    from mailapp.models import Attempt, Delivery, Message, Transition

    assert project.query(Delivery).filter(queue="incoming", status="done").count() == 1
    assert list(project.query(Attempt).values_list("outcome", flat=True)) == outcomes
    assert project.query(Transition).count() == 1
    assert project.query(Message).filter(protocol="").count() == 1


def go_down(machine: Program, worker: int) -> None:
    """End all at once: no supervisor sees its worker die, and no worker that it is alone."""
    machine.process.send_signal(signal.SIGSTOP)
    os.kill(worker, signal.SIGKILL)
    machine.kill()


def test_what_a_machine_that_went_down_had_claimed_is_worked_by_another(alone: Project) -> None:
    command = ("runworker", "--processes", "1")
    machine = alone.start(*command, until="Ctrl-C ends it.")
    [worker] = Kills(alone, Ledger()).running("worker")
    send_to_the_gate(alone)
    wait_until((alone.folder / f"waits.{worker}").exists)

    go_down(machine, worker)
    alone.start(*command, until="Ctrl-C ends it.")
    open_gate(alone)
    finish_without_relay(alone)

    assert_worked_once(alone, ["lost", "done"])


def freeze(project: Project, worker: Program) -> None:
    """Stop a process for a while, and not in the middle of a heartbeat, which locks others out."""
    from mailapp.models import Process

    rows = project.query(Process)
    with transaction.atomic(using=rows.db):
        list(rows.select_for_update())
        worker.process.send_signal(signal.SIGSTOP)


def test_a_worker_that_was_taken_for_dead_changes_nothing_when_it_wakes_up(
    alone: Project,
) -> None:
    send_to_the_gate(alone)
    frozen = start_worker_at_gate(alone)

    freeze(alone, frozen)
    start_worker_at_gate(alone)
    open_gate(alone)
    finish_without_relay(alone)
    frozen.process.send_signal(signal.SIGCONT)
    open_gate(alone)
    frozen.wait_for("The claim was released")

    assert_worked_once(alone, ["lost", "done"])
