"""`runmail` as systemd starts it: its sockets are open before it, and it says when it is ready."""

from __future__ import annotations

import fcntl
import os
import smtplib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.project import ROOT, Project
from tests.waiting import DEADLINE

pytestmark = pytest.mark.any_database

MAIL = b"From: you@example.com\r\nSubject: Hello\r\n\r\nHello.\r\n"

# What systemd does between fork and exec.
HAND_OVER = """
import os, sys
for at in range(int(os.environ["LISTEN_FDS"])):
    os.dup2(100 + at, 3 + at)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Systemd:
    """Holds the sockets of a project, starts its program, and hears what that says."""

    def __init__(self, project: Project, said: socket.socket, *listening: socket.socket) -> None:
        self.project = project
        self.said = said
        self.listening = listening
        self.programs: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        # Above those numbers that the program is to have them under.
        numbers = [fcntl.fcntl(each.fileno(), fcntl.F_DUPFD, 100) for each in self.listening]
        told = {
            "LOG_LEVEL": "WARNING",
            "LISTEN_FDS": str(len(numbers)),
            "NOTIFY_SOCKET": self.said.getsockname(),
        }
        try:
            started = subprocess.Popen(
                [sys.executable, "-c", HAND_OVER, "manage.py", *command],
                pass_fds=numbers,
                cwd=ROOT,
                env=os.environ | self.project.environment | told,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        finally:
            for number in numbers:
                os.close(number)
        self.programs.append(started)
        return started

    def hears(self) -> str:
        return self.said.recv(100).decode()

    def kill_all(self) -> None:
        for program in self.programs:
            program.kill()
            program.communicate()


@pytest.fixture
def systemd(project: Callable[..., Project]) -> Iterator[Systemd]:
    installation = project(
        DJANGO_SETTINGS_MODULE="tests.acceptance.lmtp_settings", MAIL_CATCHER="", WEB=""
    )
    installation.environment["MAIL_LMTP"] = f"{installation.folder}/lmtp"
    host, _, port = installation.receiver.partition(":")
    with (
        socket.create_server((host, int(port))) as receiver,
        socket.socket(socket.AF_UNIX) as lmtp,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as said,
    ):
        lmtp.bind(installation.environment["MAIL_LMTP"])
        lmtp.listen()
        said.bind(f"{installation.folder}/notify")
        said.settimeout(DEADLINE)
        holding = Systemd(installation, said, receiver, lmtp)
        try:
            yield holding
        finally:
            holding.kill_all()


def deliver(project: Project) -> None:
    host, _, port = project.receiver.partition(":")
    with smtplib.SMTP(host, int(port), timeout=DEADLINE) as client:
        client.sendmail("you@example.com", ["mail-count@localhost"], MAIL)


def end(program: subprocess.Popen[bytes]) -> str:
    """End a program as systemd does; return what it had to complain about."""
    program.terminate()
    _, complaints = program.communicate(timeout=DEADLINE)
    return complaints.decode()


def test_mail_that_comes_between_two_programs_waits_for_the_next(systemd):
    from mailapp.models import Message

    program = systemd.start("runmail")
    assert systemd.hears() == "READY=1"
    deliver(systemd.project)
    with smtplib.LMTP(f"{systemd.project.folder}/lmtp") as client:
        client.sendmail("you@example.com", ["mail-count@localhost"], MAIL)
    assert end(program) == ""
    assert systemd.hears() == "STOPPING=1"

    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(deliver, systemd.project)  # nothing runs, and nobody is refused
        program = systemd.start("runmail", "--only", "receiver")
        assert systemd.hears() == "READY=1"
        waiting.result(DEADLINE)

    assert end(program) == ""
    received = systemd.project.query(Message).filter(sender="you@example.com")
    assert sorted(received.values_list("protocol", flat=True)) == ["ESMTP", "ESMTP", "LMTP"]


def test_workers_alone_say_when_they_are_ready_and_have_no_socket(systemd):
    systemd.listening = ()

    program = systemd.start("runworker")
    assert systemd.hears() == "READY=1"

    assert end(program) == ""
    assert systemd.hears() == "STOPPING=1"


def test_socket_where_no_setting_has_us_listen_is_refused_in_one_line(systemd):
    with socket.create_server(("127.0.0.1", 0)) as stray:
        systemd.listening = (*systemd.listening, stray)
        program = systemd.start("runmail", "--only", "receiver")
        _, complaints = program.communicate(timeout=DEADLINE)

        assert program.returncode == 1
        assert complaints.decode().splitlines() == [
            f"CommandError: systemd has opened a socket where no setting of MAIL has us listen: "
            f"127.0.0.1:{stray.getsockname()[1]}"
        ]
