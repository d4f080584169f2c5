"""The whole server in the background: started, looked at, started again, killed and ended."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_runmail import accepts, alive, send
from tests.project import HOST, Project
from tests.waiting import DEADLINE, wait_until

RUNS_ALREADY = "CommandError: It runs already: process "


@pytest.fixture
def installation(project: Callable[..., Project]) -> Iterator[Project]:
    made = project(WEB="")
    yield made
    made.manage("stopmail")


def pid_of(project: Project) -> int:
    return int((project.folder / "runmail.pid").read_text())


def status(project: Project) -> tuple[int, dict[str, Any]]:
    done = project.manage("mailstatus", "--json")
    return done.returncode, json.loads(done.stdout)


def everything_ended(project: Project) -> bool:
    return not project.processes() and not accepts(project.receiver)


def test_server_goes_to_the_background_is_looked_at_restarted_and_ended(installation):
    started = installation.manage("runmail", "--detach")

    assert (started.returncode, started.stderr) == (0, "")
    assert f"Receiver  {installation.receiver}, for mail to localhost" in started.stdout
    assert "Ctrl-C" not in started.stdout
    send(installation)
    wait_until(lambda: list(installation.caught.glob("new/*")))

    log = installation.folder / "logs" / "mail.log"
    wait_until(lambda: " sent what it caused" in log.read_text())
    in_order_of_time = "\n".join(sorted(log.read_text().splitlines()))
    assert re.findall(r"mail 1 (\w+)", in_order_of_time) == ["accepted", "handled", "sent"]

    code, said = status(installation)
    assert code == 0
    assert (said["running"], said["pid"]) == (True, pid_of(installation))
    assert {each["kind"]: each["pid"] for each in said["processes"]} == alive(installation)
    assert [each["name"] for each in said["queues"]] == ["incoming", "outgoing", "undeliverable"]

    second = installation.manage("runmail")
    assert second.returncode == 1
    assert second.stderr.startswith(f"{RUNS_ALREADY}{pid_of(installation)} holds ")
    assert len(second.stderr.splitlines()) == 1

    before, parts = pid_of(installation), alive(installation)
    refused = installation.manage("restartmail", DATABASE_URL="sqlite:////nowhere/mail")
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    assert pid_of(installation) == before

    with socket.create_server((HOST, 0)) as other:
        taken = f"{HOST}:{other.getsockname()[1]}"
        refused = installation.manage("restartmail", MAIL_RECEIVER=taken)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert f"Another program listens there, or we may not: {taken} (" in refused.stderr
    assert (pid_of(installation), alive(installation)) == (before, parts)

    restarted = installation.manage("restartmail")
    assert (restarted.returncode, restarted.stderr) == (0, "")
    assert pid_of(installation) != before
    assert not set(alive(installation).values()) & set(parts.values())

    restarted_pid = pid_of(installation)
    stopped = installation.manage("stopmail", "--all", str(installation.folder))
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert stopped.stdout == f"runmail has ended: it was process {restarted_pid}.\n"
    wait_until(lambda: everything_ended(installation))
    assert "Traceback" not in (installation.folder / "logs" / "runmail.log").read_text()


@pytest.mark.any_database
def test_killed_supervisor_is_noticed_and_of_two_starts_at_once_one_runs(installation):
    installation.manage("runmail", "--detach")
    killed = pid_of(installation)

    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{killed}").exists())

    code, said = status(installation)
    assert (code, said["running"], said["left_by"]) == (3, False, killed)
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda _: installation.manage("runmail", "--detach"), range(2)))
    refused, started = sorted(done, key=lambda each: each.returncode == 0)
    assert (refused.returncode, started.returncode) == (1, 0)
    assert refused.stderr.startswith(RUNS_ALREADY)
    assert accepts(installation.receiver)

    os.kill(pid_of(installation), signal.SIGKILL)
    stopped = installation.manage("stopmail")
    assert (stopped.returncode, stopped.stderr) == (0, "")
    wait_until(lambda: everything_ended(installation))


@pytest.mark.any_database
def test_server_that_is_stopped_while_it_starts_ends_and_says_that_it_did_not_start(installation):
    starting = installation.start("runmail", "--detach", until="")
    pid_file = installation.folder / "runmail.pid"
    wait_until(lambda: pid_file.exists() and pid_file.read_text())

    os.kill(pid_of(installation), signal.SIGTERM)  # as stopmail does, which may come too late

    assert starting.process.wait(DEADLINE) == 1
    assert starting.output.startswith("CommandError: ")
    wait_until(lambda: everything_ended(installation))


@pytest.mark.any_database
def test_server_that_cannot_start_says_why_and_leaves_nothing(installation):
    with socket.create_server((HOST, int(installation.catcher.rpartition(":")[2]))):
        done = installation.manage("runmail", "--detach")

    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert installation.catcher in line
    wait_until(lambda: everything_ended(installation))


@pytest.mark.any_database
def test_status_without_a_database_is_one_line(project, tmp_path):
    done = project(DATABASE_URL=f"sqlite:///{tmp_path}/nowhere/mail.sqlite3").manage("mailstatus")

    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1
    assert "runmail does not run here" in done.stderr


@pytest.mark.any_database
def test_ctrl_c_ends_a_server_that_is_not_ready_yet(installation):
    starting = installation.start("runmail", "--detach", until="")
    wait_until(lambda: (installation.folder / "runmail.pid").exists())

    starting.process.send_signal(signal.SIGINT)

    assert starting.process.wait(DEADLINE) == 130
    wait_until(lambda: everything_ended(installation))
