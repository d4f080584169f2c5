"""Mail that nobody here wrote: every one is taken, kept as it came, and worked."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.ledger import Client, Ledger, Letter, Refused
from tests.project import ROOT
from tests.waiting import wait_until

if TYPE_CHECKING:
    from mailapp.models import RawMessage
    from tests.project import Project

CORPUS = Path(os.environ.get("MAIL_CORPUS") or ROOT.parent / "shared" / "corpus")
PERSON = "reader@client.test"
RECIPIENTS = ["corpus@localhost", "mail-read@localhost", "mail-answer@localhost"]
CLIENTS = 4
ANY_LINE_END = re.compile(rb"\r\n|\r|\n")

pytestmark = pytest.mark.skipif(
    not (CORPUS / "MESSAGES.txt").exists(), reason=f"there is no corpus at {CORPUS}"
)


def mails() -> dict[str, bytes]:
    """Each mail of the corpus as it goes over the wire, by name; those with a NUL as they are."""
    names = (CORPUS / "MESSAGES.txt").read_text().split("\n")
    return {name: on_the_wire((CORPUS / name).read_bytes()) for name in filter(None, names)}


def on_the_wire(raw: bytes) -> bytes:
    content = ANY_LINE_END.sub(b"\r\n", raw)
    return content if content.endswith(b"\r\n") else content + b"\r\n"


@pytest.fixture(scope="module")
def running(shared_project: Callable[..., Project]) -> Project:
    """A project with a handler that reads all of a mail, and a list with two people on it."""
    from examples.mailinglist.models import MailingList

    running = shared_project(DJANGO_SETTINGS_MODULE="tests.acceptance.settings", WEB="")
    mailing_list = running.query(MailingList).create(name="corpus", host="localhost")
    for address in (PERSON, "another@client.test"):
        mailing_list.subscriptions.create(address=address)
    running.start("runmail", until="Ctrl-C ends everything.")
    return running


def send(project: Project, letters: Iterable[Letter]) -> Ledger:
    """Send over a few connections at once; return what the clients noted."""
    ledger = Ledger()
    letters = list(letters)

    def send_share(number: int) -> None:
        with closing(Client(project.receiver, ledger)) as client:
            client.send_all(letters[number::CLIENTS])

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(send_share, range(CLIENTS)))
    return ledger


def test_every_mail_is_taken_kept_as_it_came_and_worked(running: Project) -> None:
    sent = {name: raw.replace(b"\0", b"") for name, raw in mails().items()}
    letters = [
        Letter(f"{name} from <{sender}>", sender, RECIPIENTS, raw)
        for name, raw in sent.items()
        for sender in (PERSON, "")
    ]

    ledger = send(running, letters)
    finish(running)
    send(running, [Letter("the last", PERSON, ["mail-read@localhost"], b"Subject: Last\r\n\r\n")])
    finish(running)

    assert set(ledger.accepted) == {letter.name for letter in letters}
    assert_kept_as_sent(running, sent)
    assert_done_or_held_with_a_reason(running)
    assert_forwarded_as_sent(running, sent)
    assert_nothing_was_stopped(running)


@pytest.mark.any_database
def test_mail_with_a_nul_is_refused(running: Project) -> None:
    [raw] = [raw for raw in mails().values() if b"\0" in raw]

    with pytest.raises(Refused, match=r"550 .*5\.6\.11"):
        send(running, [Letter("with NUL", PERSON, RECIPIENTS, raw)])


def finish(project: Project) -> None:
    from mailapp.models import Delivery

    unfinished = project.query(Delivery).filter(status__in=["queued", "claimed"])
    wait_until(lambda: not unfinished.exists())


def assert_kept_as_sent(project: Project, sent: dict[str, bytes]) -> None:
    from mailapp.models import RawMessage

    incoming = project.query(RawMessage).exclude(message__protocol="")
    kept = Counter(content(project, row) for row in incoming)

    assert [name for name, raw in sent.items() if kept[raw] < 2] == []
    assert kept.total() == 2 * len(sent) + 1  # and the last


def content(project: Project, row: RawMessage) -> bytes:
    if row.content is not None:
        return bytes(row.content)
    return Path(project.folder, "large", row.file).read_bytes()


def assert_done_or_held_with_a_reason(project: Project) -> None:
    from mailapp.models import Attempt, Delivery

    deliveries = project.query(Delivery)
    errors = project.query(Attempt).exclude(error="").values_list("delivery__recipient", "error")

    assert list(errors) == []
    assert not deliveries.exclude(status__in=["done", "held"]).exists()
    assert not deliveries.filter(status="held", reply="").exists()
    assert not deliveries.filter(recipient="mail-read@localhost").exclude(status="done").exists()


def assert_forwarded_as_sent(project: Project, sent: dict[str, bytes]) -> None:
    """The catcher keeps mail with the line ends of Unix, below the fields that were added.

    Mail whose first line is folded has a field of its own above it.
    """
    files = map(Path.read_bytes, Path(project.caught, "new").iterdir())
    below = (mail.partition(b"\nX-Original: follows\n")[2] for mail in files)
    caught = Counter(mail.removeprefix(b"X-Unnamed:\n") for mail in below)

    assert [name for name, raw in sent.items() if caught[raw.replace(b"\r\n", b"\n")] < 2] == []


def assert_nothing_was_stopped(project: Project) -> None:
    from mailapp.models import Process

    assert not project.query(Process).exclude(stopped_at=None).exists()
    for log in project.folder.glob("*.log"):
        assert not re.search(r",\d{3} (ERROR|CRITICAL) ", log.read_text())
