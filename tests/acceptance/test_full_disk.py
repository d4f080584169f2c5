"""A receiver on a disk that fills up: what it took is there, what it cannot take the sender keeps.

The disk is a real one of a few megabytes, with the database, the spool and the large mails.
"""

from __future__ import annotations

import contextlib
import os
import re
import smtplib
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from mailapp.receiver import replies
from tests.project import Project
from tests.waiting import DEADLINE, wait_until

if TYPE_CHECKING:
    from pytest_django import DjangoDbBlocker

    from mailapp.models import RawMessage
    from tests.project import Databases

SMALL = 3_000  # octets, kept in a row
LARGE = 100_000  # over the INLINE_SIZE of these tests, so kept as a file
PAGE = 4096
LINE = b"MAIL FROM:<reader@client.test>\r\n"  # it must not count as a command
PUT_OFF = {replies.DISK_LOW, replies.NOT_STORED, replies.DATABASE_AWAY}

pytestmark = pytest.mark.any_database


class Disk:
    """A small file system, of which a file can take up all the space but a little."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, *, leave: int) -> None:
        """Leave so many octets free."""
        self.clear()
        status = os.statvfs(self.folder)
        self._ballast.write_bytes(bytes(status.f_bavail * status.f_bsize - leave))

    def clear(self) -> None:
        """Free again what `fill` took."""
        self._ballast.unlink(missing_ok=True)


class Sender:
    """A client that keeps one session, and what it heard there."""

    def __init__(self, place: str, name: str) -> None:
        self.accepted: dict[str, bytes] = {}  #: the content of what was answered 250, by its id
        self.put_off: list[bytes] = []  #: the other replies, without what differs each time
        self._smtp = wait_until(lambda: _connect(place))
        self._name = name

    def ask(self, command: str) -> bytes:
        """Send a command and return the reply."""
        return _joined(self._smtp.docmd(command))

    def send(self, octets: int) -> bool:
        """Send a new mail of this size; say whether it was answered 250."""
        number = len(self.accepted) + len(self.put_off)
        message_id = f"<{self._name}.{number}@client.test>"
        head = f"Message-ID: {message_id}\r\n\r\n".encode()
        content = head + LINE * (octets // len(LINE))
        reply = self._converse(content)
        if reply == replies.STORED:
            self.accepted[message_id] = content
        else:
            self.put_off.append(re.sub(rb" \(error [0-9a-f]{12}\)$", b"", reply))
        assert self.ask("NOOP") == replies.OK  # all of the content was taken as content
        return reply == replies.STORED

    def send_until_put_off(self, octets: int, times: int) -> None:
        """Send mails of this size until so many were put off."""
        while len(self.put_off) < times:
            self.send(octets)

    def close(self) -> None:
        """Hang up."""
        self._smtp.close()

    def _converse(self, content: bytes) -> bytes:
        reply = self.ask("MAIL FROM:<reader@client.test>")
        if reply != replies.SENDER_OK:
            return reply
        assert self.ask("RCPT TO:<mail-count@localhost>") == replies.RECIPIENT_OK
        assert self.ask("DATA") == replies.START_DATA
        for start in range(0, len(content), PAGE):
            self._smtp.send(content[start : start + PAGE])
            time.sleep(0)  # let the receiver run, so that it takes small pieces
        self._smtp.send(b".\r\n")
        return _joined(self._smtp.getreply())


def _connect(place: str) -> smtplib.SMTP | None:
    host, _, port = place.rpartition(":")
    smtp = smtplib.SMTP(timeout=DEADLINE, local_hostname="client.test")
    with contextlib.suppress(ConnectionRefusedError):
        smtp.connect(host, int(port))
        smtp.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        smtp.ehlo()
        return smtp
    smtp.close()
    return None


def _joined(reply: tuple[int, bytes]) -> bytes:
    code, text = reply
    return b"%d %b" % (code, text)


@pytest.fixture
def disk() -> Iterator[Disk]:
    with tempfile.TemporaryDirectory(prefix="mail-disk-") as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode:
            reason, _, _ = done.stderr.partition("\n")
            pytest.skip(f"no file system can be mounted: {reason}")
        try:
            yield Disk(Path(folder))
        finally:  # it is busy as long as anything runs there
            wait_until(lambda: subprocess.run(["umount", folder], check=False).returncode == 0)


class Site(NamedTuple):
    """A receiver on the disk, and who sends mail to it."""

    disk: Disk
    project: Project
    senders: list[Sender]


Start = Callable[..., Site]


@pytest.fixture
def start(
    disk: Disk, tmp_path: Path, project_databases: Databases, django_db_blocker: DjangoDbBlocker
) -> Iterator[Start]:
    """Start a receiver whose every file is on the disk: `start(min_free_space=1, senders=2)`."""
    with django_db_blocker.unblock(), contextlib.ExitStack() as stack:

        def start(*, min_free_space: int, senders: int = 1) -> Site:
            environment = {
                "RUN_DIR": str(disk.folder),
                "DJANGO_SETTINGS_MODULE": "tests.acceptance.disk_settings",
                "MAIL_MIN_FREE_SPACE": str(min_free_space),
            }
            url = project_databases.copy(disk.folder)
            project = Project(tmp_path, url, environment)  # so that the logs are elsewhere
            stack.enter_context(contextlib.closing(project))
            project.start("runmail", "--only", "receiver", until="")
            opened = [Sender(project.receiver, f"sender{number}") for number in range(senders)]
            for sender in opened:
                stack.callback(sender.close)
            return Site(disk, project, opened)

        yield start


def test_no_mail_is_taken_while_there_is_little_space(start: Start) -> None:
    site = start(min_free_space=2_000_000)
    [sender] = site.senders
    assert sender.send(SMALL)
    assert sender.send(LARGE)

    site.disk.fill(leave=1_500_000)
    wait_until(lambda: reply_to_mail(site) == replies.DISK_LOW)
    assert not sender.send(SMALL)
    assert not sender.send(LARGE)

    site.disk.clear()
    wait_until(lambda: reply_to_mail(site) == replies.SENDER_OK)
    assert sender.send(SMALL)
    assert sender.send(LARGE)
    assert sender.put_off == [b"452 4.3.1 Insufficient storage, please try again later"] * 2
    assert_kept(site)


def reply_to_mail(site: Site) -> bytes:
    """Open a session and ask whether a mail may come."""
    with contextlib.closing(Sender(site.project.receiver, "asking")) as sender:
        return sender.ask("MAIL FROM:<>")


@pytest.mark.parametrize("octets", [SMALL, LARGE], ids=["small", "large"])
def test_what_does_not_fit_is_put_off_and_what_was_taken_is_there(
    start: Start, octets: int
) -> None:
    site = start(min_free_space=1, senders=4)
    site.disk.fill(leave=1_500_000)

    with ThreadPoolExecutor(len(site.senders)) as pool:
        list(pool.map(lambda sender: sender.send_until_put_off(octets, times=10), site.senders))
    assert any(sender.accepted for sender in site.senders)

    site.disk.clear()
    for sender in site.senders:
        wait_until(lambda sender=sender: sender.send(octets))
        assert set(sender.put_off) <= PUT_OFF
    assert_kept(site)


@pytest.mark.parametrize(
    "pages",
    [range(1, LARGE // PAGE + 1), range(LARGE // PAGE + 1, 2 * LARGE // PAGE + 10)],
    ids=["while it comes in", "while it is stored"],
)
def test_disk_that_fills_in_the_middle_of_a_mail_puts_off_that_mail_alone(
    start: Start, pages: range
) -> None:
    site = start(min_free_space=1)
    [sender] = site.senders

    for free in pages:  # each place in the mail at which the disk may be full
        site.disk.fill(leave=free * PAGE)
        sender.send(LARGE)

    assert set(sender.put_off) <= PUT_OFF
    site.disk.clear()
    wait_until(lambda: sender.send(LARGE))
    assert_kept(site)


def assert_kept(site: Site) -> None:
    """What was answered 250 is stored byte for byte, and nothing else is."""
    from mailapp.models import RawMessage

    rows = site.project.query(RawMessage).select_related("message")
    kept = [(row.message.message_id, _content(site.disk, row)) for row in rows]
    accepted = [item for sender in site.senders for item in sender.accepted.items()]

    assert sorted(kept) == sorted(accepted)


def _content(disk: Disk, row: RawMessage) -> bytes:
    if row.content is not None:
        return bytes(row.content)
    return Path(disk.folder, "large", row.file).read_bytes()
