"""What `mailqueue` shows of a queue and of a Maildir, and what it does there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from mailapp.maildir import Maildir, envelope_fields
from mailapp.management.mailqueue import DatabaseQueue, MayNot
from mailapp.models import Delivery, Queue, Status
from mailapp.pickup import Pickup
from mailapp.wakeup import listen

RAW = b"From: reader@client.test\r\nSubject: Hello\xff\r\n\r\nHello\0you.\r\n"

pytestmark = pytest.mark.django_db


@pytest.fixture
def mailqueue(capfdbinary) -> Callable[..., bytes]:
    """Run the command and return what it printed, not what it asked."""

    def run(*arguments: str) -> bytes:
        call_command("mailqueue", *arguments)
        sys.stdout.flush()
        return capfdbinary.readouterr().out

    return run


@pytest.fixture
def answers(monkeypatch) -> Callable[[str], None]:
    """Type on standard input."""

    def type(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(text.encode())))

    return type


@pytest.fixture
def maildir(tmp_path: Path) -> Maildir:
    return Maildir(tmp_path / "posts", create=True)


@pytest.fixture
def path(maildir: Maildir) -> str:
    return str(maildir.path)


def fresh(delivery: Delivery) -> tuple[str, str]:
    delivery.refresh_from_db()
    return delivery.status, delivery.reply


# A queue


def test_queue_is_listed_in_order_without_what_is_done(mailqueue, delivery):
    done, first, second = (delivery(raw=RAW) for _ in range(3))
    Delivery.objects.filter(pk=done.pk).update(status=Status.DONE, due_at=None)
    Delivery.objects.filter(pk=second.pk).hold("An operator\nwants\u202e it so")

    lines = mailqueue("list", "incoming").decode().splitlines()
    listed = json.loads(mailqueue("list", "incoming", "--json"))

    stamp = f"{first.created_at:%Y-%m-%dT%H:%M:%SZ}"
    assert lines[0] == (
        f"{first.pk}  queued  {stamp}  reader@client.test -> you@example.com  Hello\u00ff"
    )
    assert lines[2] == "    An operator wants[U+202E] it so"
    assert [(each["key"], each["status"]) for each in listed] == [
        (str(first.pk), "queued"),
        (str(second.pk), "held"),
    ]
    assert mailqueue("keys", "incoming").decode().split() == [str(first.pk), str(second.pk)]
    assert mailqueue("count", "incoming") == b"2\n"
    assert json.loads(mailqueue("count", "incoming", "--json")) == {
        "total": 2,
        "queued": 1,
        "held": 1,
    }


def test_list_of_many_takes_no_query_for_each(mailqueue, delivery, django_assert_num_queries):
    for _ in range(10):
        delivery()

    with django_assert_num_queries(3):  # the queue, the names of all, the deliveries
        mailqueue("list", "incoming")


def test_mail_is_written_byte_for_byte_and_stays(mailqueue, delivery, settings):
    settings.MAIL = {**settings.MAIL, "INLINE_SIZE": 10}
    mail = delivery(raw=RAW)

    assert mailqueue("get", "incoming", str(mail.pk)) == RAW
    assert fresh(mail) == ("queued", "")


def test_mail_is_shown_to_be_read(mailqueue, delivery):
    mail = delivery(raw=b"Subject: =?utf-8?q?Caf=C3=A9?=\r\n\r\nexe.\xe2\x80\xaegpj\r\n")

    page = mailqueue("show", "incoming", str(mail.pk)).decode()
    shown = json.loads(mailqueue("show", "incoming", str(mail.pk), "--json"))

    assert f"Key:        {mail.pk}\n" in page
    assert "Subject: Café\n" in page
    assert "exe.[U+202E]gpj" in page
    assert (shown["status"], shown["headers"]) == ("queued", [["Subject", "Café"]])


def test_oldest_is_popped_written_and_then_discarded(mailqueue, delivery, process):
    claimed, first, second = (delivery(raw=RAW + bytes([number])) for number in range(3))
    Delivery.objects.claim("incoming", process(), 1)

    assert mailqueue("pop", "incoming") == RAW + b"\1"
    assert fresh(first) == ("failed", "Popped with manage.py mailqueue")
    assert (fresh(claimed)[0], fresh(second)[0]) == ("claimed", "queued")

    mailqueue("pop", "incoming")
    with pytest.raises(CommandError, match="There is nothing to take in incoming"):
        mailqueue("pop", "incoming")


@pytest.mark.parametrize("status", ["queued", "held"])
def test_what_could_not_be_written_is_not_removed(delivery, monkeypatch, status):
    mail = delivery(raw=RAW)
    if status == "held":
        Delivery.objects.hold("By hand")
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(sys, "stdout", TextIOWrapper(full))

        with pytest.raises(CommandError, match="No space left"):
            call_command("mailqueue", "pop", "incoming")

    assert fresh(mail)[0] == status


def test_held_mail_that_another_takes_while_it_is_written_is_told_of(delivery):
    mail = delivery(raw=RAW)
    Delivery.objects.hold("By hand")
    queue = DatabaseQueue(Queue.objects.get(name="incoming"))
    written = []

    def write(chunk):
        written.append(chunk)
        Delivery.objects.discard("Popped by another")

    with pytest.raises(MayNot, match=f"{mail.pk} was taken by somebody else, too"):
        queue.pop(write)

    assert written == [RAW]
    assert fresh(mail) == ("failed", "Popped by another")


def test_what_is_removed_is_discarded(mailqueue, delivery):
    first, second, third = (delivery() for _ in range(3))

    said = mailqueue("remove", "incoming", str(first.pk), str(third.pk))

    assert said == b"2 removed\n"
    assert fresh(first) == fresh(third) == ("failed", "Removed with manage.py mailqueue")
    assert fresh(second)[0] == "queued"


def test_nothing_is_done_when_one_of_the_keys_is_not_fit(mailqueue, delivery, process):
    claimed, other = delivery(), delivery()
    Delivery.objects.claim("incoming", process(), 1)

    with pytest.raises(CommandError, match=f"{claimed.pk} is claimed, and cannot be removed"):
        mailqueue("remove", "incoming", str(other.pk), str(claimed.pk))

    assert (fresh(claimed)[0], fresh(other)[0]) == ("claimed", "queued")


@pytest.mark.parametrize(("typed", "left"), [("y\n", 1), ("yes\n", 1), ("n\n", 3), ("\n", 3)])
def test_clear_asks_and_leaves_what_is_in_hand(mailqueue, delivery, process, answers, typed, left):
    for _ in range(3):
        delivery()
    Delivery.objects.claim("incoming", process(), 1)
    answers(typed)

    if left == 3:
        with pytest.raises(CommandError, match="Nothing was removed"):
            mailqueue("clear", "incoming")
    else:
        assert mailqueue("clear", "incoming") == b"2 removed\n"

    assert Delivery.objects.exclude(status=Status.FAILED).count() == left


def test_clear_without_anybody_to_ask_removes_nothing_but_by_yes(
    mailqueue, delivery, answers, capfdbinary
):
    delivery()
    answers("")

    with pytest.raises(CommandError, match="--yes"):
        mailqueue("clear", "incoming")
    assert capfdbinary.readouterr().err == b"Remove all of incoming (1 mail)? [y/N] "
    assert json.loads(mailqueue("clear", "incoming", "--yes", "--json")) == {"removed": 1}
    assert mailqueue("clear", "incoming") == b"0 removed\n"


def test_mail_is_held_released_and_retried(mailqueue, delivery):
    first, second = delivery(), delivery()

    assert mailqueue("hold", "incoming", str(first.pk)) == b"1 held\n"
    assert fresh(first) == ("held", "Held with manage.py mailqueue")
    assert mailqueue("hold", "incoming", "--all") == b"1 held\n"
    assert mailqueue("release", "incoming", str(first.pk)) == b"1 released\n"
    assert json.loads(mailqueue("retry", "incoming", "--all", "--json")) == {"retried": 1}
    assert (fresh(first)[0], fresh(second)[0]) == ("queued", "queued")


@pytest.mark.django_db(transaction=True)
def test_workers_of_the_queue_that_it_came_from_are_woken(mailqueue, delivery, settings, tmp_path):
    settings.MAIL = {**settings.MAIL, "RUN_DIR": str(tmp_path)}
    mail = delivery()
    Delivery.objects.filter(pk=mail.pk).update(
        queue="undeliverable", held_from="incoming", status=Status.HELD, due_at=None
    )

    with listen("incoming") as bell:
        mailqueue("retry", "undeliverable", "--all")
        bell.wait(3600)  # returns, or the test never ends

    mail.refresh_from_db()
    assert mail.queue_id == "incoming"


# A Maildir


@pytest.mark.any_database
def test_maildir_is_listed_read_and_unread_in_order(mailqueue, maildir, path):
    names = ["1700000000.M1P1.host", "1700000001.M1P1.host", "1700000002.M1P1.host"]
    mail = envelope_fields("reader@client.test", ["you@example.com"]) + RAW
    for name in names:
        (maildir.path / "new" / name).write_bytes(mail)
    (maildir.path / "new" / names[1]).rename(maildir.path / "cur" / f"{names[1]}:2,RS")

    lines = mailqueue("list", path).decode().splitlines()

    assert lines[1] == (
        f"{names[1]}  cur RS  2023-11-14T22:13:21Z  "
        "reader@client.test -> you@example.com  Hello\u00ff"
    )
    assert mailqueue("keys", path).decode().split() == names
    assert json.loads(mailqueue("count", path, "--json")) == {"total": 3, "new": 2, "cur": 1}
    assert mailqueue("get", path, names[1]) == mail
    assert b"Status:     cur RS\n" in mailqueue("show", path, names[1])


@pytest.mark.any_database
def test_oldest_of_a_maildir_is_popped(mailqueue, maildir, path):
    maildir.add(RAW + b"1")
    maildir.add(RAW + b"2")

    assert mailqueue("pop", path) == RAW + b"1"
    assert mailqueue("pop", path) == RAW + b"2"
    with pytest.raises(CommandError, match="There is nothing to take in"):
        mailqueue("pop", path)


@pytest.mark.any_database
def test_mail_of_a_maildir_that_could_not_be_written_stays(maildir, path, monkeypatch):
    key = maildir.add(RAW)
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(sys, "stdout", TextIOWrapper(full))

        with pytest.raises(CommandError, match="No space left"):
            call_command("mailqueue", "pop", path)

    assert maildir.keys() == [key]


@pytest.mark.any_database
def test_mails_of_a_maildir_are_removed_and_cleared(mailqueue, maildir, path, answers):
    keys = [maildir.add(RAW) for _ in range(4)]

    assert mailqueue("remove", path, keys[0], keys[2]) == b"2 removed\n"
    assert sorted(maildir.keys()) == sorted([keys[1], keys[3]])
    answers("y\n")
    assert mailqueue("clear", path) == b"2 removed\n"
    assert maildir.keys() == []


@pytest.mark.any_database
def test_why_a_mail_was_put_aside_is_told(mailqueue, maildir, path, handle):
    handle()
    maildir.add(RAW)
    (maildir.path / "new" / "empty").touch()
    while Pickup(maildir).take():
        pass

    listed = json.loads(mailqueue("list", f"{path}/.errors", "--json"))

    assert {each["reply"] for each in listed} == {
        "no Return-Path on top of it says who sent it",
        "it is empty",
    }


@pytest.mark.any_database
def test_mail_in_a_file_named_anyhow_is_one_line_and_can_be_got_by_its_key(
    mailqueue, maildir, path
):
    key = "a\nb \udcff"
    (maildir.path / "new" / key).write_bytes(RAW)

    [line] = mailqueue("list", path).decode().splitlines()

    assert line.startswith("a\\nb \\udcff  new  ")
    assert mailqueue("keys", path) == b"a\nb \xff\n"
    assert "a\\nb" in mailqueue("show", path, key).decode()
    assert mailqueue("get", path, key) == RAW
    assert json.loads(mailqueue("keys", path, "--json")) == [key]


@pytest.mark.any_database
def test_what_cannot_be_read_does_not_stop_the_list(mailqueue, maildir, path, tmp_path):
    key = maildir.add(RAW)
    (maildir.path / "new" / "link").symlink_to(tmp_path / "elsewhere")
    (maildir.path / "new" / "folder").mkdir()

    listed = json.loads(mailqueue("list", path, "--json"))

    replies = {each["key"]: each["reply"] for each in listed}
    assert replies == {key: "", "link": "it cannot be read: Too many levels of symbolic links"}


@pytest.mark.any_database
def test_sender_that_nothing_tells_is_not_taken_for_the_null_sender(mailqueue, maildir, path):
    unknown, null = maildir.add(RAW), maildir.add(envelope_fields("", []) + RAW)

    assert b"Sender:     ?\n" in mailqueue("show", path, unknown)
    assert b"Sender:     <>\n" in mailqueue("show", path, null)


# Wrong lines


@pytest.mark.any_database
@pytest.mark.parametrize("verb", ["retry", "hold", "release"])
def test_maildir_holds_and_retries_nothing(mailqueue, maildir, path, verb):
    with pytest.raises(CommandError, match="nothing in it is tried"):
        mailqueue(verb, path, "--all")


@pytest.mark.any_database
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list"], "QUEUE-or-MAILDIR"),
        (["nonsense", "incoming"], "invalid choice: 'nonsense'"),
        (["list", "nowhere"], "There is no queue nowhere"),
        (["list", "./nowhere"], "./nowhere is no Maildir"),
        (["list", f"./{'x' * 300}"], f"./{'x' * 300}: File name too long"),
        (["get", "incoming", "1"], "There is no mail with this key: 1"),
        (["get", "incoming", "one"], "There is no mail with this key: one"),
        (["get", "incoming", "9" * 40], "There is no mail with this key"),
        (["retry", "incoming"], "Say what to retry: KEYs, or --all."),
        (["retry", "incoming", "1", "--all"], "Say what to retry: KEYs, or --all."),
    ],
)
def test_line_that_is_wrong_is_one_line(mailqueue, arguments, said):
    with pytest.raises(CommandError) as error:
        mailqueue(*arguments)

    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_key_of_a_mail_in_another_queue_is_none_of_this(mailqueue, delivery):
    Queue.objects.create(name="index")
    mail = delivery(queue="index")

    with pytest.raises(CommandError, match="There is no mail with this key"):
        mailqueue("remove", "incoming", str(mail.pk))

    assert fresh(mail)[0] == "queued"
