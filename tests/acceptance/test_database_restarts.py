"""PostgreSQL crashes and comes back while mail arrives: nothing is lost, nothing there twice."""

from __future__ import annotations

import contextlib
import smtplib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests import postgres
from tests.project import Project
from tests.waiting import DEADLINE, wait_until


@pytest.fixture
def server() -> Iterator[postgres.Server]:
    try:
        with postgres.own_server() as server:
            yield server
    except postgres.NoPostgres as error:
        pytest.skip(str(error))


class _Sender(threading.Thread):
    """A client that sends mail after mail, each until it is taken."""

    def __init__(self, place: str, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.taken: list[str] = []
        self.put_off: list[str] = []
        self.waits: list[float] = []
        self.stopping = threading.Event()
        self._host, _, port = place.rpartition(":")
        self._port = int(port)

    def run(self) -> None:
        number = 0
        while not self.stopping.is_set():
            number += 1
            message_id = f"<{self.name}.{number}@client.test>"
            while not self._is_taken(message_id):
                self.stopping.wait(0.02)
            self.taken.append(message_id)

    def _is_taken(self, message_id: str) -> bool:
        began = time.monotonic()
        try:
            with smtplib.SMTP(self._host, self._port, timeout=DEADLINE) as smtp:
                smtp.sendmail(
                    "reader@client.test",
                    ["postmaster@localhost"],
                    f"Message-ID: {message_id}\r\n\r\nHello.\r\n",
                )
        except smtplib.SMTPException as error:
            self.waits.append(time.monotonic() - began)
            self.put_off.append(str(error))
            return False
        return True


def test_mail_that_was_taken_is_there_once_when_postgresql_restarts(
    server: postgres.Server, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    project = Project(tmp_path, server.url, {})
    with contextlib.closing(project):
        assert project.manage("migrate", "--verbosity=0").returncode == 0
        receiver = project.start("runmail", "--only", "receiver", until="")
        wait_until(lambda: _is_open(project.receiver))
        senders = [_Sender(project.receiver, name) for name in ("a", "b", "c", "d")]
        for sender in senders:
            sender.start()
        for _ in range(request.config.getoption("restarts")):
            _wait_for_more(senders, lambda sender: sender.taken)
            server.stop("immediate")
            _wait_for_more(senders, lambda sender: sender.put_off)
            server.start()
        _wait_for_more(senders, lambda sender: sender.taken)
        for sender in senders:
            sender.stopping.set()
            sender.join(DEADLINE)

        with psycopg.connect(server.url) as connection:
            rows = connection.execute("SELECT message_id FROM mailapp_message").fetchall()
        kept = Counter(message_id for (message_id,) in rows)
        taken = {message_id for sender in senders for message_id in sender.taken}
        assert not taken - kept.keys(), "lost"
        assert not {each: times for each, times in kept.items() if times > 1}, "there twice"
        assert not kept.keys() - taken, "there, though its sender was never told"
        for sender in senders:
            assert max(sender.waits) < 15
            assert all("4.3." in reply for reply in sender.put_off)
        assert receiver.process.poll() is None


def _wait_for_more(senders: list[_Sender], what: Callable[[_Sender], list[str]]) -> None:
    before = [len(what(sender)) for sender in senders]
    wait_until(
        lambda: all(
            len(what(sender)) > count for sender, count in zip(senders, before, strict=True)
        )
    )


def _is_open(place: str) -> bool:
    host, _, port = place.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port))):
        return True
    return False
