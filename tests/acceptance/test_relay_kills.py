"""A relay that is killed between the 250 of the smart host and the commit that notes it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from django.db import transaction
from django.utils import timezone

from tests.integration.scripted_server import HOLD, ScriptedServer, scripted_server
from tests.waiting import wait_until

if TYPE_CHECKING:
    from mailapp.models import Delivery
    from tests.project import Program, Project

CONNECTIONS = 4  #: the default
MAILS = 10


class Site:
    """A relay, its queue, and a smart host that holds its replies back until `server.go_on`."""

    def __init__(self, project: Project, server: ScriptedServer) -> None:
        self.project = project
        self.server = server

    def post(self, *recipients: str) -> None:
        """Queue a mail for the relay."""
        from mailapp.models import OUTGOING, Message, NewMail

        raw = f"Message-ID: <{recipients[0]}>\r\n\r\n".encode()
        mail = NewMail(raw=raw, sender="", recipients=list(recipients), queue=OUTGOING)
        self.project.query(Message).store([mail])  # type: ignore[attr-defined]

    def post_many(self) -> None:
        """Queue a mail for each of `MAILS` recipients."""
        for number in range(MAILS):
            self.post(f"r{number}@client.test")

    def start(self) -> Program:
        return self.project.start("runmail", "--only", "relay", until="")

    @property
    def deliveries(self) -> list[Delivery]:
        from mailapp.models import Delivery

        return list(self.project.query(Delivery).order_by("pk"))

    @contextlib.contextmanager
    def nothing_can_be_settled(self) -> Iterator[None]:
        from mailapp.models import Delivery

        rows = self.project.query(Delivery)
        with transaction.atomic(using=rows.db):
            list(rows.select_for_update())
            yield

    def kill_once_noted(self, relay: Program, mails: int) -> None:
        """Let the smart host take so many mails; kill the relay when none of them is settled."""
        wait_until(lambda: len(self.server.messages) == min(mails, CONNECTIONS))
        with self.nothing_can_be_settled():
            self.server.go_on.set()
            wait_until(lambda: self.notes() == mails)
            relay.kill()

    def kill_before_a_reply(self, relay: Program) -> None:
        """Kill the relay when it waits for the reply to a mail on each connection."""
        wait_until(lambda: len(self.server.messages) == CONNECTIONS)
        relay.kill()
        self.server.go_on.set()

    def notes(self) -> int:
        pages = (self.project.folder / "relay").glob("*.notes")
        return sum(page.read_bytes().count(b"\n") for page in pages)

    def copies(self) -> Counter[bytes]:
        """How often the smart host took each mail."""
        return Counter(self.server.messages)

    def tries(self) -> Counter[tuple[int, str]]:
        """The numbers and outcomes of all tries, counted."""
        from mailapp.models import Attempt

        return Counter(self.project.query(Attempt).values_list("number", "outcome"))

    def finish(self) -> None:
        """Start the next relay and return when nothing is left to do."""
        self.start()
        wait_until(lambda: {each.status for each in self.deliveries} <= {"done", "failed"})


@pytest.fixture
def site(project: Callable[..., Project]) -> Iterator[Callable[..., Site]]:
    """Make a site whose smart host answers as it is told: `site(RCPT=["250 Ok", "550 No"])`."""
    with contextlib.ExitStack() as stack:

        def make(**script: str | list[str]) -> Site:
            server = stack.enter_context(scripted_server({".": HOLD, **script}))
            return Site(project(MAIL_RELAY=server.address), server)

        yield make


def test_what_the_smart_host_took_is_not_sent_again_after_a_kill(site):
    here = site()
    here.post_many()
    here.kill_once_noted(here.start(), MAILS)

    here.finish()

    assert len(here.copies()) == here.copies().total() == MAILS
    assert here.tries() == {(1, "done"): MAILS}
    assert {each.reply for each in here.deliveries} == {"250 Taken"}


def test_what_the_smart_host_took_is_not_sent_again_when_its_claim_was_released(site):
    from mailapp.models import Delivery, Process

    here = site()
    here.post_many()
    here.kill_once_noted(here.start(), MAILS)

    here.project.query(Process).update(stopped_at=timezone.now())
    assert here.project.query(Delivery).release_dead() == MAILS
    here.finish()

    assert len(here.copies()) == here.copies().total() == MAILS
    assert here.tries() == {(1, "done"): MAILS}


@pytest.mark.any_database
def test_of_a_mail_for_many_only_the_refused_are_asked_again_after_a_kill(site):
    here = site(RCPT=["250 Ok", "550 5.1.1 Unknown"])
    here.post("taken@client.test", "refused@client.test")
    here.kill_once_noted(here.start(), 1)

    here.finish()

    assert {each.recipient: each.status for each in here.deliveries} == {
        "taken@client.test": "done",
        "refused@client.test": "failed",
    }
    assert len(here.server.messages) == 1
    assert here.server.commands.count("RCPT TO:<refused@client.test>") == 2


@pytest.mark.any_database
def test_kill_repeats_one_mail_for_each_connection_whose_reply_was_not_heard(site):
    here = site()
    here.post_many()

    here.kill_before_a_reply(here.start())
    here.finish()

    assert Counter(here.copies().values()) == {2: CONNECTIONS, 1: MAILS - CONNECTIONS}


def test_what_a_killed_relay_had_not_sent_is_free_at_once(site):
    here = site()
    here.post_many()
    here.kill_before_a_reply(here.start())

    here.finish()

    assert here.tries() == {(1, "lost"): MAILS, (2, "done"): MAILS}


@pytest.mark.any_database
def test_killed_relay_counts_as_dead_only_once_its_successor_is_there(project):
    from mailapp.models import Process

    running = project(MAIL_CATCHER="", WEB="")
    running.start("runmail", until="Ctrl-C ends everything.")
    relays = running.query(Process).filter(kind="relay").order_by("pk")

    os.kill(relays.get().pid, signal.SIGKILL)

    wait_until(lambda: relays[0].stopped_at)
    killed, successor = relays
    assert successor.started_at < killed.stopped_at
    assert killed.ending == "signal 9, Killed"
