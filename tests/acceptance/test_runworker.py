"""Workers without the rest: how they start, what they work, and how they end."""

from __future__ import annotations

import json
import os
import signal

import pytest
from django.db import connection

from mailapp.models import Delivery, Message, NewMail, Process, Queue, Status
from tests.project import Project
from tests.waiting import wait_until

READY = "Ctrl-C ends it."


def alive(project: Project) -> list[int]:
    """The pids of the workers."""
    rows = project.query(Process).filter(kind="worker", stopped_at=None).order_by("id")
    return list(rows.values_list("pid", flat=True))


def store(project: Project, queue: str = "incoming") -> None:
    objects = Message.objects.using(project.query(Message).db)
    objects.store([NewMail(raw=b"", sender="", recipients=["nobody@localhost"], queue=queue)])


def nothing_waits(project: Project) -> bool:
    return not project.query(Delivery).filter(status=Status.QUEUED).exists()


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.any_database)]
)
def test_signal_ends_the_workers_in_good_order(project, number):
    installation = project()
    program = installation.start("runworker", until=READY)
    store(installation)
    wait_until(lambda: nothing_waits(installation))

    code = program.stop(number)

    assert code == 0
    assert alive(installation) == []


def test_worker_that_is_killed_starts_again(project):
    installation = project()
    installation.start("runworker", until=READY)
    [killed] = alive(installation)

    os.kill(killed, signal.SIGKILL)

    wait_until(lambda: killed not in alive(installation) and alive(installation))
    store(installation)
    wait_until(lambda: nothing_waits(installation))


def test_as_many_workers_run_as_were_asked_for(project):
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    installation = project()

    installation.start("runworker", "--processes", "3", until=READY)

    assert len(alive(installation)) == 3


@pytest.mark.any_database
def test_queue_of_ones_own_is_worked_alone_in_the_background_until_it_is_ended(project):
    installation = project()
    installation.query(Queue).create(name="reports")
    store(installation)
    store(installation, "reports")
    in_background = ("runworker", "--queue", "reports", "--detach")

    started = installation.manage(*in_background)

    assert (started.returncode, started.stderr) == (0, "")
    assert started.stdout.startswith("Working reports.\n")
    waiting = installation.query(Delivery).filter(status=Status.QUEUED)
    wait_until(lambda: waiting.count() == 1)
    assert waiting.get().queue_id == "incoming"

    first = int((installation.folder / "runworker-reports.pid").read_text())
    again = installation.manage(*in_background)
    assert again.returncode == 1
    assert again.stderr.startswith(f"CommandError: It runs already: process {first} holds ")

    status = installation.manage("mailstatus", "--json")
    [other] = json.loads(status.stdout)["others"]
    assert (other["name"], other["pid"], other["left_by"]) == ("runworker-reports", first, None)
    assert status.returncode == 1  # nobody works incoming

    unknown = installation.manage("restartmail", "runworker")
    restarted = installation.manage("restartmail", "runworker-reports")
    assert (unknown.returncode, restarted.returncode) == (1, 0)
    assert (
        f"runworker-reports has ended: it was process {first}.\nWorking reports.\n"
        in restarted.stdout
    )
    store(installation, "reports")
    wait_until(lambda: waiting.count() == 1)

    stopped = installation.manage("stopmail")
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert "has ended" in stopped.stdout
    assert alive(installation) == []


@pytest.mark.parametrize("queue", ["outgoing", "elsewhere", "\udcff"])
@pytest.mark.any_database
def test_queue_that_no_handler_works_is_one_line(project, queue):
    done = project().manage("runworker", "--queue", queue)

    assert done.returncode == 1
    shown = queue.encode(errors="backslashreplace").decode()
    assert done.stderr == f"CommandError: There is no queue {shown} that handlers work.\n"


def test_second_worker_on_sqlite_is_one_line(project):
    if connection.vendor != "sqlite":
        pytest.skip("of SQLite")

    done = project().manage("runworker", "--processes", "2")

    assert done.stderr.startswith("CommandError: SQLite has one writer at a time")
