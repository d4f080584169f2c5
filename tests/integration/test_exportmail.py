"""Mail written into mailboxes that other programs read."""

from __future__ import annotations

import mailbox
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailapp.mailboxes import (
    NEW_MAILBOXES,
    Broken,
    Unfit,
    as_filed,
    as_received,
    new_mailbox,
    open_mailbox,
)
from mailapp.models import OUTGOING, Message, NewMail

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

RAW = [
    b"Subject: One\r\n\r\nHello.\r\n",
    b"Subject: Two\r\n\r\nDear all,\r\n\r\nFrom here\r\n>From there\r\n.\r\n",
    b"Subject: Three\r\n\r\n\xff\0 no end",
]


@pytest.fixture
def run(manage) -> Callable[..., tuple[str, str]]:
    return partial(manage, "exportmail")


@pytest.fixture
def stored(message):
    """Three mails."""
    return [message(raw=raw) for raw in RAW]


def read(path: Path) -> list[bytes]:
    with open_mailbox(path) as box:
        return [found.content for found in box.mails() if not isinstance(found, Broken)]


@pytest.mark.django_db
@pytest.mark.any_database
def test_path_that_is_no_utf_8_is_shown_as_far_as_it_can_be(run, tmp_path, stored):
    path = tmp_path / "copy\udcff.mbox"

    assert run(path) == (f"Exported 3 mails to {tmp_path}/copy[U+DCFF].mbox (mbox).", "")
    assert len(read(path)) == 3
    assert "is not UTF-8" in run(tmp_path / "other", "--search=\udcff")[1]


@pytest.mark.django_db
@pytest.mark.any_database
@pytest.mark.parametrize("format", ["maildir", "mh", "babyl", "eml"])
def test_each_format_keeps_every_byte(run, tmp_path, stored, format):
    path = tmp_path / "copy"

    assert run(path, "--format", format) == (f"Exported 3 mails to {path} ({format}).", "")
    assert read(path) == RAW
    assert [each.name for each in tmp_path.iterdir()] == ["copy"]


@pytest.mark.django_db
def test_an_mbox_quotes_lines_and_ends_the_last_one(run, tmp_path, stored):
    path = tmp_path / "copy.mbox"

    assert run(path) == (f"Exported 3 mails to {path} (mbox).", "")
    assert read(path) == [RAW[0], RAW[1].replace(b"\nFrom", b"\n>From"), RAW[2] + b"\r\n"]
    assert path.read_bytes().startswith(b"From reader@client.test ")
    assert b"\r" not in path.read_bytes()


@pytest.mark.django_db
@pytest.mark.any_database
@pytest.mark.parametrize(
    ("format", "kind"),
    [
        ("maildir", mailbox.Maildir),
        ("mbox", mailbox.mbox),
        ("mh", mailbox.MH),
        ("babyl", mailbox.Babyl),
    ],
)
def test_the_standard_library_reads_what_is_written(run, tmp_path, stored, format, kind):
    run(tmp_path / "copy", "--format", format)

    box = kind(tmp_path / "copy", create=False)
    assert sorted(each["Subject"] for each in box) == ["One", "Three", "Two"]
    box.close()


LINES = st.lists(
    st.sampled_from(
        [b"Subject: x\r\n", b"\r\n", b"\n", b"\r", b"a", b"From x\r\n", b">From x\n", b"\xff\0"]
    ),
    min_size=1,
).map(b"".join)


@pytest.mark.parametrize("format", sorted(set(NEW_MAILBOXES) - {"mbox"}))
@settings(max_examples=20)
@given(st.lists(LINES, max_size=3))
@example([b"From x\r\n\r\n"])
def test_what_is_written_is_read_again(tmp_path_factory, format, raws):
    path = tmp_path_factory.mktemp("written") / "box"
    kept = [raw for raw in raws if as_received(as_filed(raw)) == raw and raw.strip(b"\r\n")]
    if format == "babyl":
        kept = [raw for raw in kept if not as_filed(raw).startswith(b"\n")]

    with new_mailbox(path, format) as box:
        for raw in kept:
            box.add(raw, "a@b.test", NOW)

    if kept or format != "eml":
        assert read(path) == kept  # a folder without letters is no mailbox


@settings(max_examples=30)
@given(st.lists(LINES, max_size=3))
@example([b"From x\r\n\r\n"])
@example([b"Subject: x\r\n\r\n", b"a"])
def test_an_mbox_parts_mails_as_they_were(tmp_path_factory, raws):
    path = tmp_path_factory.mktemp("written") / "box"

    with new_mailbox(path, "mbox") as box:
        for raw in raws:
            box.add(raw, "a b@c.test", NOW)

    assert len(read(path)) == len(raws)


@given(LINES)
def test_line_ends_come_back_unless_they_were_those_of_files(raw):
    only_lf = b"\n" in raw and b"\r" not in raw

    assert as_received(as_filed(raw)) == raw or only_lf


@pytest.mark.parametrize(
    "raw",
    [
        b"Subject: x\r\n\r\n\x1f\r\n",
        b"Subject: x\r\n\r\n\x1f\x0c\r\n",
        b"Subject: x\r\n\r\n*** EOOH ***\r\n",
        b"\r\nno header\r\n",
    ],
)
def test_what_babyl_would_read_otherwise_is_not_written(tmp_path, raw):
    with new_mailbox(tmp_path / "box", "babyl") as box, pytest.raises(Unfit):
        box.add(raw, "a@b.test", NOW)


@pytest.mark.django_db
def test_what_cannot_be_written_is_told_and_keeps_out_no_others(run, tmp_path, stored, message):
    bad = message(raw=b"Subject: Four\r\n\r\n\x1f\r\n")
    path = tmp_path / "copy"

    out, err = run(path, "--format=babyl")

    assert out == f"Exported 3 mails to {path} (babyl)."
    assert err.splitlines() == [
        f"Message {bad.pk}, Four: This mail cannot be written: "
        "a line of it means the end of a mail in Babyl",
        "1 mail could not be exported.",
    ]


@pytest.mark.django_db
def test_a_large_mail_whose_file_is_gone_is_told_and_keeps_out_no_others(
    run, tmp_path, stored, message, settings
):
    folder = tmp_path / "large"
    settings.STORAGES = {
        **settings.STORAGES,
        "mail": {
            "BACKEND": "mailapp.storage.DurableFileSystemStorage",
            "OPTIONS": {"location": str(folder)},
        },
    }
    for _ in range(2):
        large = message(raw=b"Subject: Large\r\n\r\n" + b"x" * 300_000 + b"\r\n")
    (folder / large.raw_message.file).unlink()

    out, err = run(tmp_path / "copy")

    assert out.startswith("Exported 4 mails")
    assert err.startswith(f"Message {large.pk}, Large: This mail cannot be written: FileNotFound")
    assert len(read(tmp_path / "copy")) == 4


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("options", "subjects"),
    [
        (["--queue=incoming"], ["In"]),
        (["--queue=outgoing"], ["Out", "Late"]),
        (["--queue=outgoing", "--status=queued"], ["Out", "Late"]),
        (["--status=done"], []),
        (["--search=LATE"], ["Late"]),
        (["--search=friend@client.test"], ["Out"]),
        (["--search=writer@client.test"], ["In"]),
        (["--search=author@client.test"], ["Out"]),
        (["--search=7@client.test"], ["Late"]),
        (["--since=2026-03-01"], ["Late"]),
        (["--since=2026-03-01T13:00:00"], []),
        (["--until=2026-03-01"], ["In", "Out"]),
        (["--queue=incoming", "--search=Late"], []),
    ],
)
def test_what_is_asked_for_is_exported(run, tmp_path, message, options, subjects):
    message(raw=b"Subject: In\r\n\r\n", sender="writer@client.test")
    message(
        raw=b"Subject: Out\r\nFrom: author@client.test\r\n\r\n",
        queue=OUTGOING,
        recipients=["friend@client.test", "other@client.test"],
    )
    late = message(raw=b"Subject: Late\r\nMessage-ID: <7@client.test>\r\n\r\n", queue=OUTGOING)
    Message.objects.update(created_at=datetime(2026, 2, 1, tzinfo=UTC))
    Message.objects.filter(pk=late.pk).update(created_at=NOW)

    _, err = run(tmp_path / "copy", *options)

    if subjects:
        assert [raw.splitlines()[0].decode()[9:] for raw in read(tmp_path / "copy")] == subjects
    else:
        assert err == "No mail is like that; nothing was written."
        assert not list(tmp_path.iterdir())


@pytest.mark.django_db
def test_the_envelope_is_written_on_top_and_imported_again(run, manage, tmp_path, message):
    raw = b"Subject: One\r\n\r\n"
    message(raw=raw, sender="", recipients=["a@localhost", "b@localhost"])

    run(tmp_path / "copy", "--envelope")
    manage("importmail", tmp_path / "copy")

    top = b"Return-Path: <>\r\nDelivered-To: a@localhost\r\nDelivered-To: b@localhost\r\n"
    assert read(tmp_path / "copy") == [top + raw]
    again = Message.objects.latest("pk")
    assert again.sender == ""
    assert {each.recipient for each in again.deliveries.all()} == {"a@localhost", "b@localhost"}


@pytest.mark.django_db
def test_many_are_exported_in_order_with_news(run, tmp_path, message):
    Message.objects.store(
        [
            NewMail(raw=b"Subject: %d\r\n\r\n" % number, sender="", recipients=["a@localhost"])
            for number in range(1100)
        ]
    )

    _, err = run(tmp_path / "copy")

    assert err == "1000 of 1100"
    assert read(tmp_path / "copy") == [b"Subject: %d\r\n\r\n" % number for number in range(1100)]


@pytest.mark.django_db
@pytest.mark.any_database
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--queue=nothing"], "There is no queue nothing."),
        (["--format=pst"], "Error: argument --format: invalid choice: 'pst'"),
        (["--status=lost"], "Error: argument --status: invalid choice: 'lost'"),
        (["--since=yesterday"], "Error: argument --since: 'yesterday' is no date such as 2026"),
        (["--until=2026-02-30"], "Error: argument --until: '2026-02-30' is no date such as 2026"),
    ],
)
def test_wrong_arguments_get_one_clear_line(run, tmp_path, stored, arguments, complaint):
    out, err = run(tmp_path / "copy", *arguments)

    assert out == ""
    assert err.startswith(complaint)
    assert err.count("\n") == 0


@pytest.mark.django_db
@pytest.mark.any_database
def test_a_machine_may_have_any_name(run, manage, tmp_path, stored, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "desk/2:here")

    run(tmp_path / "copy")
    manage("importmail", tmp_path / "copy", "--maildir", tmp_path / "again")

    assert read(tmp_path / "copy") == read(tmp_path / "again") == RAW


@pytest.mark.django_db
@pytest.mark.any_database
def test_nothing_that_is_there_is_touched(run, tmp_path, stored):
    (tmp_path / "copy").write_text("mine")

    assert run(tmp_path / "copy") == ("", f"{tmp_path}/copy: there is something already")
    assert run(tmp_path / "a" / "b")[1] == (
        f"{tmp_path}/a/b: the folder that it is to be in is not there"
    )
    assert (tmp_path / "copy").read_text() == "mine"
    assert [each.name for each in tmp_path.iterdir()] == ["copy"]
