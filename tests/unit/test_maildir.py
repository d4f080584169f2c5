"""Maildirs: how a mail gets in, in which order it comes out, and whose envelope it has."""

from __future__ import annotations

import errno
import mailbox
import os
import socket
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mailapp.errors import BadAddress
from mailapp.maildir import Envelope, Maildir, arrival, envelope_fields, file_name, read_envelope

RAW = b"Subject: Hello\n\nHello.\n"


@pytest.fixture
def queue(tmp_path: Path) -> Maildir:
    return Maildir(tmp_path / "run" / "queue", create=True)


def test_mail_is_in_new_byte_for_byte_and_nothing_is_left_in_tmp(queue):
    content = b"\xff\x00 no line end \r\n\n"

    key = queue.add(content)

    assert (queue.path / "new" / key).read_bytes() == content
    assert list((queue.path / "tmp").iterdir()) == []


def test_mail_is_for_its_owner_alone(queue):
    file = queue.path / "new" / queue.add(RAW)

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(queue.path.stat().st_mode) == 0o700


@pytest.fixture
def synced(monkeypatch) -> list[Path]:
    """What is synced from now on."""
    fsync, paths = os.fsync, []

    def note(number: int) -> None:
        paths.append(Path(f"/proc/self/fd/{number}").readlink())
        fsync(number)

    monkeypatch.setattr(os, "fsync", note)
    return paths


def test_mail_and_its_name_are_on_disk_before_its_key_is_known(queue, synced):
    key = queue.add(RAW)

    assert synced == [queue.path / "tmp" / key, queue.path / "new"]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_mail_that_cannot_be_synced_is_not_there(queue, monkeypatch, what):
    def fail(number: int) -> None:
        if stat.S_ISDIR(os.fstat(number).st_mode) == (what == "folder"):
            raise OSError(errno.EIO, "disk I/O error")

    monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(OSError, match="disk I/O error"):
        queue.add(RAW)

    assert list((queue.path / "new").iterdir()) == []
    assert list((queue.path / "tmp").iterdir()) == []


def test_folder_is_on_disk_when_it_is_made(tmp_path, synced):
    Maildir(tmp_path / "queue", create=True)

    assert synced == [tmp_path / "queue", tmp_path]


def test_many_who_write_at_once_never_meet(queue):
    start = threading.Barrier(8)

    def write(_: int) -> list[str]:
        start.wait()
        return [queue.add(RAW) for _ in range(25)]

    with ThreadPoolExecutor(8) as pool:
        keys = [key for keys in pool.map(write, range(8)) for key in keys]

    assert len(set(keys)) == 200
    assert sorted(Maildir(queue.path).keys()) == sorted(keys)


def test_reader_of_the_standard_library_finds_mail_and_its_flags(queue):
    read = mailbox.MaildirMessage(RAW)
    read.set_subdir("cur")
    read.set_flags("RS")
    read.set_date(1_700_000_000)

    key = queue.add(read)

    [mail] = mailbox.Maildir(queue.path, create=False)
    assert (mail.get_subdir(), mail.get_flags(), mail["Subject"]) == ("cur", "RS", "Hello")
    assert queue.path_of(key).parent.name == "cur"
    assert mail.get_date() == 1_700_000_000


def test_mail_comes_out_in_order_of_arrival_whoever_wrote_it(queue):
    names = [
        "1700000000.M5P1Q1.host",  # as the standard library has it: no zeros before
        "1700000000.V801I2f00dM000017.host",  # as Postfix has it
        "1700000000.M100000P1.host,S=20",  # as Dovecot has it
        "1700000001.12345.host",  # as qmail had it
    ]
    for name in reversed(names):
        (queue.path / "new" / name).write_bytes(RAW)
    latest = queue.add(RAW)
    by_hand = queue.path / "new" / "by-hand.eml"
    by_hand.write_bytes(RAW)
    os.utime(by_hand, (1, 1))
    (queue.path / "new" / names[3]).rename(queue.path / "cur" / f"{names[3]}:2,S")

    assert queue.in_order() == ["by-hand.eml", *names, latest]
    assert [path.name for path in queue.arrivals()] == ["by-hand.eml", *names[:3], latest]


def test_name_of_this_machine_is_no_folder_and_no_flag(queue, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "desk/2:here")

    name = file_name(1_700_000_000, 17, "N1")

    assert name == r"1700000000.M000017N1.desk\0572\072here"
    assert arrival(queue.path / "new" / name)[:2] == (1_700_000_000, 17)
    assert queue.add(RAW) in queue


def test_half_of_a_mail_goes_when_its_writer_has_given_up(queue):
    old, young = queue.path / "tmp" / "old", queue.path / "tmp" / "young"
    for half, hours in ((old, 36), (young, 35)):
        half.write_bytes(b"Subj")
        os.utime(half, (time.time() - hours * 3600 - 60,) * 2)

    queue.remove_halves()

    assert list((queue.path / "tmp").iterdir()) == [young]


def test_folder_that_is_no_maildir_is_not_taken_for_one(tmp_path):
    with pytest.raises(mailbox.NoSuchMailboxError):
        Maildir(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_one_takes_mail_at_a_time(queue):
    inside, most = [], []

    def take(_: int) -> None:
        with Maildir(queue.path).taken_alone():
            inside.append(1)
            most.append(len(inside))
            inside.pop()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(take, range(20)))

    assert most == [1] * 20


def test_envelope_that_was_written_is_read():
    raw = envelope_fields("reader@client.test", ["you@example.com", "them@example.com"]) + RAW

    assert read_envelope(raw) == Envelope(
        "reader@client.test", ["you@example.com", "them@example.com"]
    )


@pytest.mark.parametrize(
    ("fields", "sender", "recipients"),
    [
        (b"Return-Path: <>\nDelivered-To: you@example.com\n", "", ["you@example.com"]),
        (
            b"Return-Path: <a@b.test>\nX-Original-To: news-join@example.com\n"
            b"Delivered-To: everything@example.com\nReceived: by example.com; now\n"
            b"Delivered-To: forged@example.com\n",
            "a@b.test",
            ["news-join@example.com"],
        ),
        (
            b"Return-path: <a@b.test>\nEnvelope-to: you@example.com\n"
            b"Delivery-date: Sat, 28 Nov 2026 10:00:00 +0000\nReceived: by example.com; now\n",
            "a@b.test",
            ["you@example.com"],
        ),
        (b"delivered-to: you@Example.com\r\n", None, ["you@example.com"]),
        (b"Received: by a; now\nReturn-Path: <a@b.test>\nDelivered-To: a@b.test\n", None, []),
        (b"", None, []),
    ],
    ids=["null-sender", "postfix", "exim", "crlf", "below-a-received", "none"],
)
def test_envelope_is_what_the_last_server_wrote_on_top(fields, sender, recipients):
    assert read_envelope(fields + RAW) == Envelope(sender, recipients)


@pytest.mark.parametrize("value", ["", "root", "<a@b.test> x", "a b@c.test", "\xff@b.test\0"])
def test_address_that_is_none_is_said_to_be_so(value):
    with pytest.raises(BadAddress):
        read_envelope(f"Delivered-To: {value}\n".encode() + RAW)
