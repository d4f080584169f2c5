"""`deq` as a program: killed, beside itself, and on watch."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterable

import pytest

from mailapp.maildir import Maildir, envelope_fields
from mailapp.models import Delivery, Message, Process, Transition
from tests.project import Project
from tests.waiting import wait_until

RAW = b"Subject: Hello\n\nHello.\n"


@pytest.fixture
def installation(project: Callable[..., Project]) -> Project:
    return project(DJANGO_SETTINGS_MODULE="tests.acceptance.settings")


def fill(maildir: Maildir, people: Iterable[str]) -> None:
    for person in people:
        maildir.add(envelope_fields(person, ["mail-count@localhost"]) + RAW)


def reader(number: int) -> str:
    return f"reader-{number}@client.test"


def test_deq_that_is_killed_before_any_act_loses_nothing_and_repeats_nothing(installation):
    folder = str(installation.folder / "dying")

    # Each third act; without the 3, each.
    program = installation.start(
        "tests.acceptance.dying_deq", folder, "3", script="-m", until="acts survived"
    )

    assert "Killed before act" not in program.output
    [acts] = re.findall(r"All of (\d+) acts survived", program.output)
    assert int(acts) > 30


def test_two_deq_share_a_maildir_and_each_mail_is_worked_once(installation, pytestconfig):
    count = pytestconfig.getoption("deq_mails")
    maildir = Maildir(installation.folder / "posts", create=True)
    fill(maildir, map(reader, range(count)))

    programs = [installation.start("deq", str(maildir.path), until="") for _ in range(2)]

    assert [program.process.wait(60 + count / 50) for program in programs] == [0, 0]
    took = [int(*re.findall(r"(\d+) taken", program.output)) for program in programs]
    assert sum(took) == count
    people = installation.query(Transition).values_list("conversation__person", flat=True)
    assert Counter(people) == Counter(map(reader, range(count)))
    assert list((maildir.path / "new").iterdir()) == []


@pytest.mark.any_database
def test_deq_on_watch_takes_what_comes_starts_again_when_killed_and_ends_in_good_order(
    installation,
):
    maildir = Maildir(installation.folder / "posts", create=True)
    started = installation.manage("deq", str(maildir.path), "--watch", "--detach")
    assert started.stdout.startswith(f"Working off {maildir.path}.\n")
    done = installation.query(Delivery).filter(queue="incoming", status="done")

    fill(maildir, ["reader@client.test"])
    wait_until(lambda: done.count() == 1)
    [worker] = alive(installation)
    os.kill(worker, signal.SIGKILL)
    fill(maildir, ["reader@client.test"])

    wait_until(lambda: done.count() == 2)
    assert installation.query(Message).filter(protocol="MAILDIR").count() == 2
    assert alive(installation) != [worker]
    assert "has ended" in installation.manage("stopmail").stdout
    assert alive(installation) == []


def alive(project: Project) -> list[int]:
    """The pids of the workers."""
    rows = project.query(Process).filter(kind="worker", stopped_at=None)
    return list(rows.values_list("pid", flat=True))
