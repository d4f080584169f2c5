"""The whole server: how it starts, what it says, and how it ends."""

from __future__ import annotations

import os
import signal
import smtplib
import socket
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from urllib.request import urlopen

import pytest

from mailapp.models import Delivery, Process, Status
from tests.project import HOST, ROOT, Program, Project
from tests.waiting import DEADLINE, wait_until

READY = "Ctrl-C ends everything."
PARTS = {"receiver", "worker", "relay"}
_SUBJECTS = (b"Hello %d" % number for number in count())  # the same mail again would be a retry


@pytest.fixture
def running(project: Callable[..., Project]) -> tuple[Project, Program]:
    """All parts, for a test that ends them."""
    installation = project()
    return installation, installation.start("runmail", until=READY)


@pytest.fixture(scope="module")
def lasting(shared_project: Callable[..., Project]) -> tuple[Project, Program]:
    """All parts, for the tests after which they run on."""
    installation = shared_project()
    return installation, installation.start("runmail", until=READY)


def alive(project: Project) -> dict[str, int]:
    """The pid of each part that says it lives."""
    rows = project.query(Process).filter(stopped_at=None).order_by("id")
    return dict(rows.values_list("kind", "pid"))


def accepts(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=DEADLINE).close()
    except ConnectionRefusedError:
        return False
    return True


def send(project: Project, recipient: str = "test.list-subscribe@localhost") -> None:
    host, _, port = project.receiver.rpartition(":")
    with smtplib.SMTP(host, int(port), timeout=DEADLINE) as client:
        client.sendmail("you@example.com", [recipient], b"Subject: %s\r\n\r\n" % next(_SUBJECTS))


def assert_is_answered(project: Project) -> None:
    """All parts do their work."""
    before = len(list(project.caught.glob("new/*")))
    send(project)
    wait_until(lambda: len(list(project.caught.glob("new/*"))) > before)


def test_banner_says_where_each_part_is_and_what_to_type_next(lasting):
    project, program = lasting

    assert f"Receiver  {project.receiver}, for mail to localhost" in program.output
    assert f"Relay     sends to smtp://{project.catcher}" in program.output
    assert f"Catcher   {project.catcher}, keeps mail in {project.caught}" in program.output
    assert f"Admin     http://{project.web}/admin/" in program.output
    assert "manage.py sendtest --to " in program.output


def test_all_that_the_banner_names_is_there(lasting):
    project, _ = lasting

    assert accepts(project.receiver)
    assert accepts(project.catcher)
    with urlopen(f"http://{project.web}/admin/login/", timeout=DEADLINE) as page:
        assert page.status == 200
    assert set(alive(project)) == PARTS


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.any_database)]
)
def test_signal_ends_all_of_it_in_good_order(running, number):
    project, program = running
    send(project)

    code = program.stop(number)

    assert code == 0
    assert not any(map(accepts, [project.receiver, project.catcher, project.web]))
    assert alive(project) == {}
    assert not project.query(Delivery).filter(status=Status.CLAIMED).exists()


@pytest.mark.any_database
@pytest.mark.parametrize(
    ("setting", "arguments"),
    [
        ("MAIL_RECEIVER", []),
        ("MAIL_CATCHER", ["--only", "catcher"]),
        ("WEB", ["--only", "web"]),
    ],
)
def test_port_that_is_taken_is_one_line(project, setting, arguments):
    with socket.create_server((HOST, 0)) as taken:
        where = "{}:{}".format(*taken.getsockname())
        installation = project(**{"MAIL_CATCHER": "", "WEB": "", setting: where})

        done = installation.manage("runmail", *arguments)

    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert where in line
    assert "taken" in line or "in use" in line
    assert "Receiver" not in done.stdout
    assert alive(installation) == {}


@pytest.mark.any_database
def test_database_that_is_not_migrated_is_one_line(project, tmp_path):
    installation = project(DATABASE_URL=f"sqlite:///{tmp_path}/empty.sqlite3")

    for arguments in ([], ["--only", "worker"]):
        done = installation.manage("runmail", *arguments)

        assert done.returncode == 1
        assert done.stderr == (
            "CommandError: The database is not up to date: run manage.py migrate first.\n"
        )


def test_worker_that_is_killed_starts_again_and_its_claims_are_free_at_once(lasting):
    project, program = lasting
    before = alive(project)
    delivery = claimed_by(project, before["worker"])

    os.kill(before["worker"], signal.SIGKILL)

    wait_until(lambda: alive(project).get("worker", before["worker"]) != before["worker"])
    wait_until(lambda: project.query(Delivery).get(pk=delivery.pk).status != Status.CLAIMED)
    assert_is_answered(project)
    assert "worker ended (signal 9, Killed) and starts again" in program.output


def claimed_by(project: Project, pid: int) -> Delivery:
    """Store a mail and have it claimed by the process with that pid."""
    from mailapp.models import Message, NewMail

    process = project.query(Process).get(pid=pid)
    mail = NewMail(
        raw=b"Subject: Hello\r\n\r\n",
        sender="",
        recipients=["nobody@localhost"],
        queue="undeliverable",
    )
    objects = Message.objects.using(process._state.db)
    [key] = objects.store([mail])
    deliveries = project.query(Delivery)
    [claimed] = deliveries.filter(message=key).claim("undeliverable", process, 1)
    return claimed


@pytest.mark.parametrize("part", ["receiver", "relay"])
def test_part_that_is_killed_starts_again(lasting, part):
    project, program = lasting
    before = alive(project)[part]

    os.kill(before, signal.SIGKILL)

    wait_until(lambda: f"{part} ended (signal 9, Killed) and starts again" in program.output)
    wait_until(lambda: alive(project).get(part, before) != before)
    wait_until(lambda: accepts(project.receiver))
    assert_is_answered(project)


@pytest.mark.any_database
def test_parts_end_by_themselves_when_the_supervisor_is_killed(running):
    project, program = running

    program.process.kill()
    program.process.wait(DEADLINE)

    wait_until(lambda: alive(project) == {})
    wait_until(lambda: not any(map(accepts, [project.receiver, project.catcher, project.web])))


@pytest.mark.any_database
@pytest.mark.parametrize("part", ["catcher", "receiver", "relay", "sweeper", "web", "worker"])
def test_each_part_can_run_alone_and_ends_at_a_signal(project, part):
    installation = project()
    place = {"catcher": installation.catcher, "receiver": installation.receiver}
    place["web"] = installation.web
    process = subprocess.Popen(
        [sys.executable, "manage.py", "runmail", "--only", part],
        cwd=ROOT,
        env=os.environ | installation.environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    if part in place:
        wait_until(lambda: accepts(place[part]))
    else:
        wait_until(lambda: part in alive(installation))

    process.send_signal(signal.SIGINT)

    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert b"Traceback" not in errors


@pytest.mark.any_database
def test_receiver_in_which_something_hangs_ends_when_its_time_is_up(project):
    installation = project(DJANGO_SETTINGS_MODULE="tests.acceptance.short_drain_settings", WEB="")
    os.mkfifo(installation.folder / "gate")
    program = installation.start("runmail", "--only", "receiver", until="")
    host, _, port = installation.receiver.rpartition(":")
    wait_until(lambda: accepts(installation.receiver))

    with smtplib.SMTP(host, int(port), timeout=DEADLINE) as client:
        client.ehlo()
        client.mail("")
        client.putcmd("RCPT", "TO:<mail-ask@localhost>")
        wait_until(lambda: list(installation.folder.glob("waits.*")))
        code = program.stop()
        client.close()

    assert code == -signal.SIGALRM
