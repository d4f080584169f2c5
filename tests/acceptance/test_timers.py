"""Timers of the whole program: what dies or stands still meanwhile makes none run twice."""

from __future__ import annotations

import os
import signal
import smtplib
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone

from tests.gate import open_gate
from tests.project import Project
from tests.waiting import DEADLINE, wait_until

READY = "Ctrl-C ends everything."


@pytest.fixture
def installation(project: Callable[..., Project]) -> Project:
    """An installation with the handlers of these tests, and a gate."""
    made = project(DJANGO_SETTINGS_MODULE="tests.acceptance.settings", WEB="")
    os.mkfifo(made.folder / "gate")
    return made


def send(project: Project, recipient: str) -> None:
    host, _, port = project.receiver.rpartition(":")
    with smtplib.SMTP(host, int(port), timeout=DEADLINE) as client:
        client.sendmail("reader@client.test", [recipient], b"Subject: Hello\r\n\r\n")


def store(project: Project, recipient: str) -> None:
    from mailapp.models import Message, NewMail

    mail = NewMail(raw=b"", sender="reader@client.test", recipients=[recipient], protocol="SMTP")
    project.query(Message).store([mail])  # type: ignore[attr-defined]


def who_waits(project: Project) -> int:
    """Return the process whose function stands at the gate, and forget that it does."""
    [file] = wait_until(lambda: list(project.folder.glob("waits.*")))
    file.unlink()
    return int(file.suffix[1:])


def assert_ran_once(project: Project) -> None:
    from mailapp.models import Message, Timer, Transition

    wait_until(lambda: list(project.caught.glob("new/*")))
    assert [each.cause for each in project.query(Transition)] == ["mail", "timer"]
    assert project.query(Message).filter(protocol="").count() == 1
    assert not project.query(Timer).exists()


def test_timer_whose_worker_is_killed_in_the_middle_runs_again_and_counts_once(installation):
    installation.start("runmail", until=READY)
    send(installation, "mail-hurry@localhost")
    killed = who_waits(installation)

    os.kill(killed, signal.SIGKILL)

    assert who_waits(installation) != killed
    open_gate(installation)
    assert_ran_once(installation)


def test_timer_that_came_due_while_nothing_ran_runs_at_the_start(installation):
    from mailapp.models import Timer

    program = installation.start("runmail", "--only", "worker", until="")
    store(installation, "mail-linger@localhost")
    wait_until(installation.query(Timer).exists)
    program.stop()
    installation.query(Timer).update(due_at=timezone.now() - timedelta(days=1))

    installation.start("runmail", until=READY)

    open_gate(installation)
    assert_ran_once(installation)
