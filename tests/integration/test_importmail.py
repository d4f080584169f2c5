"""Mail of mailboxes that other programs wrote, taken into a queue or a Maildir."""

from __future__ import annotations

import mailbox
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mailapp.mailboxes import open_mailbox
from mailapp.maildir import Maildir
from mailapp.management.importing import Importer, Letter, QueueTarget
from mailapp.models import INCOMING, OUTGOING, Delivery, Message, Queue, Status
from mailapp.routing import route


def mail(number: int, body: str = "Hello.") -> bytes:
    return (
        f"From: writer{number}@client.test\nTo: news@localhost\nSubject: Mail {number}\n\n{body}\n"
    ).encode()


MAILS = [mail(1), mail(2, "Dear all,\n\nFrom here.\n.\n"), mail(3, "no end")[:-1] + b"\xff"]


@pytest.fixture
def run(manage) -> Callable[..., tuple[str, str]]:
    return partial(manage, "importmail")


def write(kind: type[mailbox.Mailbox], path: Path, mails=MAILS) -> Path:
    """Write a mailbox as the standard library does."""
    box = kind(path)
    for each in mails:
        box.add(each)
    box.close()
    return path


def letters(path: Path, mails=MAILS) -> Path:
    path.mkdir()
    for number, each in enumerate(mails):
        (path / f"{number}.eml").write_bytes(each)
    return path


def raws() -> list[bytes]:
    return [message.raw for message in Message.objects.order_by("pk")]


def crlf(content: bytes) -> bytes:
    return content.replace(b"\n", b"\r\n")


@pytest.mark.django_db
@pytest.mark.any_database
@pytest.mark.parametrize("kind", [mailbox.Maildir, mailbox.MH, mailbox.Babyl, letters])
def test_each_format_is_read_byte_for_byte(run, tmp_path, kind):
    path = letters(tmp_path / "box") if kind is letters else write(kind, tmp_path / "box")

    assert run(path) == ("Imported 3 mails.", "")
    assert sorted(raws()) == sorted(map(crlf, MAILS))


@pytest.mark.django_db
@pytest.mark.any_database
def test_an_mbox_quotes_lines_and_ends_the_last_one(run, tmp_path):
    run(write(mailbox.mbox, tmp_path / "box"))

    assert raws() == [
        crlf(MAILS[0]),
        crlf(MAILS[1]).replace(b"\nFrom here", b"\n>From here"),
        crlf(MAILS[2]) + b"\r\n",
    ]


@pytest.mark.django_db
@pytest.mark.any_database
def test_an_mbox_with_crlf_is_read_as_it_is_meant(run, tmp_path):
    path = write(mailbox.mbox, tmp_path / "box")
    path.write_bytes(crlf(path.read_bytes()))

    run(path)

    assert raws()[0] == crlf(MAILS[0])


@pytest.mark.django_db
def test_single_mails_are_read_in_the_order_that_they_are_named_in(run, tmp_path):
    for number in (1, 2):
        (tmp_path / f"{number}.eml").write_bytes(mail(number))

    run(tmp_path / "2.eml", tmp_path / "1.eml")

    assert [message.subject for message in Message.objects.order_by("pk")] == ["Mail 2", "Mail 1"]


@pytest.mark.django_db
def test_line_ends_of_both_kinds_stay_as_they_are(run, tmp_path):
    content = b"Subject: mixed\r\n\r\none\ntwo\rthree\r\n"
    (tmp_path / "a.eml").write_bytes(content)

    run(tmp_path / "a.eml")

    assert raws() == [content]


@pytest.mark.django_db
def test_imported_mail_is_held_until_it_is_released(run, tmp_path, work):
    run(write(mailbox.mbox, tmp_path / "box"))

    assert work() == 0
    held = Delivery.objects.all()
    assert {each.status for each in held} == {Status.HELD}
    assert {(each.queue_id, each.held_from_id) for each in held} == {("imported", INCOMING)}
    assert Queue.objects.get(name="imported").purpose == Queue.Purpose.HELD
    assert {each.reply for each in held} == {
        "Imported, and not handled; release it to have it handled"
    }

    assert held.release() == 3
    assert {(each.queue_id, each.status) for each in held.all()} == {(INCOMING, Status.QUEUED)}


@pytest.mark.django_db
def test_it_is_held_in_the_queue_that_is_named_whoever_works_it(run, tmp_path, work):
    path = write(mailbox.mbox, tmp_path / "box")

    run(path, "--queue=archive")
    run(path, "--queue", OUTGOING)

    assert Delivery.objects.filter(queue="archive", status=Status.HELD).count() == 3
    assert Delivery.objects.filter(queue=OUTGOING, status=Status.HELD).count() == 3
    assert not Delivery.objects.due().exists()


@pytest.mark.django_db
def test_handlers_take_it_if_they_are_to(run, tmp_path, handle, work):
    taken = []

    @route("news@(host)")
    def START(message, host):
        taken.append((message.sender, message.subject))

    handle(START)

    run(write(mailbox.mbox, tmp_path / "box"), "--handle")

    assert work() == 3
    assert taken == [(f"writer{number}@client.test", f"Mail {number}") for number in (1, 2, 3)]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("content", "sender", "recipients"),
    [
        (
            b"Return-Path: <a@b.test>\nDelivered-To: c@localhost\nFrom: x@y.test\nTo: z@b.test\n",
            "a@b.test",
            ["c@localhost"],
        ),
        (b"Return-Path: <>\nDelivered-To: c@localhost\nSubject: x\n\n", "", ["c@localhost"]),
        (b"From: X <x@y.test>\nTo: A <a@b.test>, z@localhost\nCc: y@localhost\n\n", "x@y.test",
         ["z@localhost", "y@localhost"]),
        (b"From: x@y.test\nTo: a@b.test, c@d.test\n\n", "x@y.test", ["a@b.test", "c@d.test"]),
        (b"From: root\nTo: news\n\n", "root@localhost", ["news@localhost"]),
        (b"Subject: nobody\n\n", "", ["postmaster@localhost"]),
        (b"From: <\xff@>\nTo: ((((\n\n", "", ["postmaster@localhost"]),
        (b"Return-Path: rubbish rubbish\nFrom: x@y.test\nTo: z@localhost\n\n", "x@y.test",
         ["z@localhost"]),
    ],
)  # fmt: skip
def test_the_envelope_is_what_the_mailbox_kept_or_the_header_tells(
    run, tmp_path, content, sender, recipients
):
    (tmp_path / "a.eml").write_bytes(content)

    assert run(tmp_path / "a.eml") == ("Imported 1 mail.", "")
    message = Message.objects.get()
    assert message.sender == sender
    assert {each.recipient for each in message.deliveries.all()} == set(recipients)
    assert {each.person for each in message.deliveries.all()} == {sender}


@pytest.mark.django_db
def test_an_mbox_names_the_sender_and_the_command_line_the_recipient(run, tmp_path):
    (tmp_path / "box").write_bytes(b"From bounce@b.test Thu Jan  1 00:00:00 2026\n" + mail(1))

    run(tmp_path / "box", "--to=one@localhost", "--to=two")

    message = Message.objects.get()
    assert message.sender == "bounce@b.test"
    recipients = {each.recipient for each in message.deliveries.all()}
    assert recipients == {"one@localhost", "two@localhost"}


@pytest.mark.django_db
def test_what_was_imported_is_not_imported_again(run, tmp_path):
    path = write(mailbox.mbox, tmp_path / "box", [mail(1), mail(2), mail(1)])

    assert run(path) == ("Imported 2 mails; 1 is there already.", "")
    with path.open("ab") as file:
        file.write(b"From MAILER-DAEMON Thu Jan  1 00:00:00 2026\n" + mail(4))

    assert run(path) == ("Imported 1 mail; 3 are there already.", "")
    assert Message.objects.count() == 3


@pytest.mark.django_db
def test_a_message_that_is_gone_may_come_again(run, tmp_path):
    path = write(mailbox.mbox, tmp_path / "box")
    run(path)

    Message.objects.first().delete()

    assert run(path) == ("Imported 1 mail; 2 are there already.", "")


@pytest.mark.django_db
@pytest.mark.any_database
def test_a_dry_run_changes_nothing(run, tmp_path):
    path = write(mailbox.mbox, tmp_path / "box")

    assert run(path, "--dry-run") == ("Would import 3 mails.", "")
    assert not Message.objects.exists()
    assert not Queue.objects.filter(name="imported").exists()

    run(path)
    assert run(path, "--dry-run") == ("Would import 0 mails; 3 are there already.", "")


@pytest.mark.django_db
@pytest.mark.any_database
def test_broken_files_are_told_and_keep_out_no_others(run, tmp_path):
    path = write(mailbox.Maildir, tmp_path / "box")
    (path / "new" / "folder").mkdir()
    (path / "new" / "1.empty").touch()
    (path / "new" / "2.gone").symlink_to("nowhere")
    os.mkfifo(path / "new" / "3.pipe")

    out, err = run(path)

    assert out == "Imported 3 mails; 3 are broken."
    assert err.splitlines() == [
        f"{path}/new/1.empty: it is empty",
        f"{path}/new/2.gone: No such file or directory",
        f"{path}/new/3.pipe: Not a plain file",
        "Not everything could be imported.",
    ]


@pytest.mark.django_db
def test_what_is_no_mailbox_is_told_and_keeps_out_no_others(run, tmp_path):
    (tmp_path / "picture").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "half" / "new").mkdir(parents=True)
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    box = write(mailbox.mbox, tmp_path / "box")

    out, err = run(
        *(tmp_path / name for name in ("picture", "folder", "half", "gone", "pipe", "empty")), box
    )

    assert out == "Imported 3 mails."
    told = err.replace(str(tmp_path), "").replace("No mail can be read there: ", "").splitlines()
    assert told == [
        "/picture is no mbox, Babyl file or mail",
        "/folder is no Maildir, MH folder or folder of .eml files",
        "/half is no Maildir: it has a folder new, and not both new and cur",
        "/gone is not there",
        "/pipe is no file",
        "Not everything could be imported.",
    ]


@pytest.mark.django_db
@pytest.mark.any_database
def test_what_is_no_mailbox_is_one_line_when_it_is_all_there_is(run, tmp_path):
    out, err = run(tmp_path / "gone")

    assert (out, err) == ("", f"No mail can be read there: {tmp_path}/gone is not there")


@pytest.mark.django_db
@pytest.mark.any_database
def test_a_large_mail_goes_to_the_storage(run, tmp_path, settings):
    path = write(mailbox.Maildir, tmp_path / "box")
    settings.STORAGES = {
        **settings.STORAGES,
        "mail": {"BACKEND": "mailapp.storage.DurableFileSystemStorage",
                 "OPTIONS": {"location": str(tmp_path / "large")}},
    }  # fmt: skip
    large = mail(4, "x" * 300_000)
    Maildir(path).add(large)

    assert run(path) == ("Imported 4 mails.", "")
    assert crlf(large) in raws()
    assert [path.read_bytes() for path in (tmp_path / "large").rglob("*.eml")] == [crlf(large)]


@pytest.mark.django_db(transaction=True)  # SQLite sees it at the commit
def test_what_the_database_does_not_take_is_told_of_each_mail():
    letters = {name: Letter(name, mail(1), "", ["news@localhost"]) for name in ("one", "two")}

    broken = QueueTarget("no-such-queue", handled=True).keep(letters)

    assert [each.name for each in broken] == ["one", "two"]
    assert all(each.reason.startswith("IntegrityError: ") for each in broken)
    assert not Message.objects.exists()


@pytest.mark.django_db
def test_progress_is_told_each_thousand_mails(run, tmp_path):
    path = write(mailbox.mbox, tmp_path / "box", [mail(number) for number in range(1101)])

    assert run(path) == ("Imported 1101 mails.", f"{path}: 1000 of 1101")


@pytest.mark.any_database
def test_a_maildir_can_be_filled_without_a_database(run, tmp_path):
    path = write(mailbox.mbox, tmp_path / "box")
    target = tmp_path / "Maildir"

    assert run(path, "--maildir", target) == ("Imported 3 mails.", "")
    assert run(path, "--maildir", target) == ("Imported 0 mails; 3 are there already.", "")
    filled, files = Maildir(target), [MAILS[0], MAILS[1].replace(b"\nFrom", b"\n>From")]
    files.append(MAILS[2] + b"\n")
    assert sorted(filled.get_bytes(key) for key in filled.in_order()) == sorted(files)
    assert not list((target / "tmp").iterdir())


@pytest.mark.any_database
def test_a_maildir_is_the_same_however_its_path_is_written(run, tmp_path, monkeypatch):
    path = write(mailbox.mbox, tmp_path / "box")
    run(path, "--maildir", tmp_path / "Maildir")
    monkeypatch.chdir(tmp_path)

    assert run(path, "--maildir", "Maildir") == ("Imported 0 mails; 3 are there already.", "")


@pytest.mark.any_database
def test_what_a_reader_has_moved_is_still_known(run, tmp_path):
    path = write(mailbox.mbox, tmp_path / "box")
    target = tmp_path / "Maildir"
    run(path, "--maildir", target)

    for each in (target / "new").iterdir():
        each.rename(target / "cur" / f"{each.name}:2,S")

    assert run(path, "--maildir", target)[0] == "Imported 0 mails; 3 are there already."


@pytest.mark.django_db
@pytest.mark.any_database
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--queue=a b"], "--queue a b: Enter a valid"),
        (["--queue=" + "x" * 49], "--queue xxx"),
        (["--handle", "--queue=nothing"], "There is no queue nothing that handlers work."),
        (["--handle", "--queue", OUTGOING], "There is no queue outgoing that handlers work."),
        (["--maildir=x", "--handle"], "--maildir goes with neither"),
        (["--maildir=x", "--queue=y"], "--maildir goes with neither"),
        (["--to=a b"], "--to: This is not an address"),
        (["--maildir=/dev/null/x"], "--maildir /dev/null/x: "),
    ],
)
def test_wrong_arguments_get_one_clear_line(run, tmp_path, arguments, complaint):
    out, err = run(write(mailbox.mbox, tmp_path / "box"), *arguments)

    assert out == ""
    assert err.startswith(complaint)
    assert err.count("\n") == 0
    assert not Message.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_who_import_the_same_at_once_store_it_once(tmp_path, together):
    path = write(mailbox.mbox, tmp_path / "box", [mail(number) for number in range(300)])
    Queue.objects.create(name="imported", purpose=Queue.Purpose.HELD)

    def import_all() -> Importer:
        importer = Importer(QueueTarget("imported", handled=False))
        with open_mailbox(path) as box:
            for _ in importer.run(box.mails()):
                pass
        return importer

    importers = together(import_all, import_all, import_all)

    assert Message.objects.count() == 300
    assert [importer.broken for importer in importers] == [[], [], []]
