"""What a relay notes of what it sent, and what the next one makes of it."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mailapp.models import OUTGOING, Delivery, Process, Taken
from mailapp.relay.journal import Journal, hand_over
from mailapp.relay.mailing import Mailing, Sent
from mailapp.relay.wire import Reply

pytestmark = pytest.mark.django_db

TAKEN, REFUSED = Reply(250, "2.0.0 Queued as 4F1"), Reply(550, "5.1.1 Unknown")


@pytest.fixture(autouse=True)
def folder(settings: Any, tmp_path: Path) -> Path:
    settings.MAIL = {**settings.MAIL, "RUN_DIR": str(tmp_path)}
    return tmp_path / "relay"


@pytest.fixture
def journal(folder: Path) -> Iterator[Journal]:
    """The journal of a relay that lives until the test closes it."""
    opened = Journal()
    yield opened
    opened.close()


@pytest.fixture
def send(delivery: Callable[..., Delivery], process: Callable[..., Process]) -> Callable[..., Sent]:
    """Claim a mail and have the smart host take it: `send("reader@client.test")`."""
    relay = process("relay", OUTGOING)

    def make(recipient: str = "reader@client.test", reply: Reply = TAKEN) -> Sent:
        delivery(recipient, queue=OUTGOING, protocol="")
        [claimed] = Delivery.objects.claim(OUTGOING, relay, 1)
        return Sent(Mailing(claimed.message, [claimed]), replies={recipient: reply})

    return make


def handed_over() -> list[Taken] | None:
    """What the next relay hears of; None when nobody died."""
    heard: list[list[Taken]] = []
    hand_over(heard.append)
    return heard[0] if heard else None


def test_note_of_a_relay_that_died_is_handed_over_once(journal, send):
    sent = send()
    journal.note(sent)
    journal.close()

    [note] = handed_over()

    [claimed] = sent.mailing.deliveries
    assert (note.delivery, note.claimed_at) == (claimed.pk, claimed.claimed_at)
    assert (note.reply, note.ended_at) == (str(TAKEN), sent.ended_at)
    assert handed_over() is None


def test_note_holds_a_reply_of_any_characters(journal, send):
    reply = Reply(250, '2.0.0 "Queued"\\ {as} \u00e9\U0001f4e7')
    journal.note(send(reply=reply))
    journal.close()

    [note] = handed_over()

    assert note.reply == str(reply)


def test_what_the_smart_host_refused_is_not_noted(journal, send):
    journal.note(send(reply=REFUSED))
    journal.close()

    assert handed_over() is None


def test_journal_of_a_relay_that_lives_is_left_alone(journal, send):
    journal.note(send())

    assert handed_over() is None

    journal.close()
    assert len(handed_over()) == 1


def test_journal_is_alone_while_there_are_no_notes_of_others(journal, send):
    journal.note(send())
    assert journal.is_alone()

    other = Journal()
    assert not journal.is_alone()

    other.note(send())
    other.close()
    assert not journal.is_alone()

    assert len(handed_over()) == 1
    assert journal.is_alone()


def test_journal_whose_folder_is_gone_is_not_taken_for_alone(journal, folder):
    shutil.rmtree(folder)

    assert not journal.is_alone()


def test_notes_that_could_not_be_settled_are_kept_for_the_next_time(journal, send):
    def fail(taken: list[Taken]) -> None:
        raise ConnectionError

    journal.note(send())
    journal.close()

    with pytest.raises(ConnectionError):
        hand_over(fail)

    assert len(handed_over()) == 1


def test_what_is_settled_is_struck_and_what_was_noted_meanwhile_is_not(journal, send):
    journal.note(send("settled@client.test"))
    journal.turn()
    meanwhile = send("meanwhile@client.test")
    journal.note(meanwhile)

    journal.strike()
    journal.close()

    assert [note.delivery for note in handed_over()] == [meanwhile.mailing.deliveries[0].pk]


def test_what_cannot_be_settled_yet_stays_noted_however_often_the_page_turns(journal, send):
    for number in range(4):
        journal.note(send(f"r{number}@client.test"))
        journal.turn()
    journal.close()

    assert len(handed_over()) == 4


def test_journal_does_not_grow_while_mail_is_settled(journal, send, folder):
    for number in range(4):
        journal.note(send(f"r{number}@client.test"))
        journal.turn()
        journal.strike()

    assert sum(page.stat().st_size for page in folder.glob("*.notes")) == 0


def test_journal_in_which_all_is_settled_leaves_nothing_behind(journal, send, folder):
    journal.note(send())
    journal.turn()
    journal.strike()

    journal.close()

    assert list(folder.glob("*.notes")) == []


def test_line_that_was_broken_off_spoils_no_other(journal, send, folder):
    before, broken, after = (send(f"r{number}@client.test") for number in range(3))
    journal.note(before)
    journal.note(broken)
    page = max(folder.glob("*.notes"), key=lambda path: path.stat().st_size)
    os.truncate(page, page.stat().st_size - 5)
    journal.note(after)
    journal.close()

    notes = handed_over()

    expected = [sent.mailing.deliveries[0].pk for sent in (before, after)]
    assert [note.delivery for note in notes] == expected


@contextlib.contextmanager
def files_no_longer_than(octets: int) -> Iterator[None]:
    """Have the system write so much of a file and refuse the rest, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_note_that_does_not_fit_on_the_disk_is_told_of_and_spoils_no_other(
    journal, send, folder, caplog
):
    before, cut, after = (send(f"r{number}@client.test") for number in range(3))
    journal.note(before)
    written = max(page.stat().st_size for page in folder.glob("*.notes"))

    with files_no_longer_than(written + 10):
        journal.note(cut)
    journal.note(after)
    journal.close()

    assert "cannot be noted: [Errno 27] File too large" in caplog.text
    expected = [sent.mailing.deliveries[0].pk for sent in (before, after)]
    assert [note.delivery for note in handed_over()] == expected


def test_what_is_sent_once_the_journal_is_closed_is_not_noted(journal, send):
    journal.close()

    journal.note(send())

    assert handed_over() is None


def test_last_line_that_was_broken_off_counts_for_nothing(journal, send, folder):
    journal.note(send())
    journal.close()
    [page] = folder.glob("*.notes")
    os.truncate(page, page.stat().st_size - 1)

    assert handed_over() == []
