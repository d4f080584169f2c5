"""Mail that another server leaves in a Maildir: what is taken, what is put aside, and when."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from django.db import IntegrityError

from mailapp.maildir import Maildir, envelope_fields
from mailapp.models import Delivery, Message, Unheard
from mailapp.pickup import Pickup, reasons
from mailapp.routing import accepts, from_queue, route, route_like

RAW = b"From: reader@client.test\nSubject: Hello\n\nHello you.\n"
NO_SENDER = "no Return-Path on top of it says who sent it"
FIELDS = envelope_fields("Reader@client.test", ["news@localhost"])

pytestmark = pytest.mark.django_db


@route("news@(host)")
def START(message, host): ...


@from_queue("index")
@route_like(START)
def INDEX(message, host): ...


@pytest.fixture
def maildir(tmp_path: Path, handle: Callable[..., None]) -> Maildir:
    """A Maildir in front of a handler for news@localhost."""
    handle(START, INDEX)
    return Maildir(tmp_path / "posts", create=True)


def take_all(maildir: Maildir, **options) -> Pickup:
    pickup = Pickup(maildir, **options)
    while pickup.take():
        pass
    return pickup


def aside(maildir: Maildir) -> dict[str, str]:
    """The reason for each file that was put aside."""
    errors = maildir.subfolder("errors")
    why = reasons(errors)
    return {name: why(name) for name in files(errors)}


def files(maildir: Maildir) -> list[str]:
    return [path.name for path in (maildir.path / "new").iterdir()]


def test_mail_is_stored_as_it_was_sent_with_the_envelope_that_it_tells(maildir, work):
    maildir.add(FIELDS + RAW)

    pickup = take_all(maildir)

    message = Message.objects.get()
    assert message.raw == (FIELDS + RAW).replace(b"\n", b"\r\n")
    assert (message.sender, message.subject, message.protocol) == (
        *["Reader@client.test", "Hello"],
        "MAILDIR",
    )
    delivery = message.deliveries.get()
    assert (delivery.queue_id, delivery.recipient) == ("incoming", "news@localhost")
    assert delivery.person == "reader@client.test"
    assert (pickup.taken, pickup.put_aside, files(maildir)) == (1, 0, [])
    assert not Unheard.objects.exists()
    assert work() == 1


def test_mail_may_go_to_another_queue_and_to_another_recipient(maildir, work):
    maildir.add(envelope_fields("", ["root"]) + RAW)

    take_all(maildir, queue="index", to=["news@localhost"])

    delivery = Delivery.objects.get()
    assert (delivery.queue_id, delivery.recipient) == ("index", "news@localhost")


def test_postmaster_without_a_host_is_the_one_here(maildir):
    maildir.add(envelope_fields("reader@client.test", ["Postmaster"]) + RAW)
    take_all(maildir)
    maildir.add(FIELDS + RAW)
    take_all(maildir, to=["postmaster"])

    recipients = Delivery.objects.order_by("id").values_list("recipient", flat=True)
    assert list(recipients) == ["Postmaster@localhost", "postmaster@localhost"]


@pytest.mark.any_database
@pytest.mark.parametrize(
    "fields",
    [
        b"X-Original-To: news@localhost\nDelivered-To: everything@localhost\n",
        b"X-Original-To: alias@localhost\nDelivered-To: news@localhost\n",
    ],
)
def test_aliases_of_the_other_server_are_followed_as_far_as_a_handler_wants(maildir, fields):
    maildir.add(b"Return-Path: <a@b.test>\n" + fields + RAW)

    take_all(maildir)

    assert Delivery.objects.get().recipient == "news@localhost"


def test_large_mail_goes_to_the_storage(maildir, settings, tmp_path):
    settings.MAIL = {**settings.MAIL, "INLINE_SIZE": 100_000}
    raw = FIELDS + RAW + b"\r\n" + b"x" * 3_000_000
    maildir.add(raw)
    maildir.add(FIELDS + RAW)

    take_all(maildir)

    small, large = Message.objects.all()
    assert large.raw_message.file
    assert (large.raw, large.size, large.subject) == (raw, len(raw), "Hello")
    assert small.raw_message.file == ""


def test_mails_keep_their_order_of_arrival(maildir, settings):
    settings.MAIL = {**settings.MAIL, "BATCH_SIZE": 3}
    for number in (3, 1, 7, 2, 5, 6, 4):
        name = f"170000000{number}.M1P1.host"
        (maildir.path / "new" / name).write_bytes(FIELDS + b"Subject: %d\n\n" % number)

    take_all(maildir)

    subjects = Message.objects.order_by("id").values_list("subject", flat=True)
    assert list(subjects) == list("1234567")


def test_two_mails_alike_are_two(maildir):
    maildir.add(FIELDS + RAW)
    maildir.add(FIELDS + RAW)

    take_all(maildir)

    assert Message.objects.count() == 2


@pytest.mark.any_database
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (RAW, "no Return-Path on top of it says who sent it"),
        (
            b"Return-Path: <>\n" + RAW,
            "no X-Original-To, Envelope-To or Delivered-To on top says whom it is for",
        ),
        (
            envelope_fields("a@b.test", ["root"]) + RAW,
            "This is not an address by the grammar of RFC 5321 4.1.2: 'root'",
        ),
        (envelope_fields("a@b.test", ["x@localhost"]) + RAW, "x@localhost: 550 5.1.1 No such"),
        (envelope_fields("a@b.test", ["x@b.test"]) + RAW, "x@b.test: 550 5.7.1"),
        (FIELDS.ljust(2001, b"x"), 'it has 2001 octets, and MAIL["MAX_MESSAGE_SIZE"] is 2000'),
    ],
    ids=["empty", "no-sender", "no-recipient", "bad-address", "unknown", "elsewhere", "huge"],
)
def test_mail_that_cannot_be_taken_is_put_aside_as_it_is_with_its_reason(
    maildir, settings, content, reason
):
    settings.MAIL = {**settings.MAIL, "MAX_MESSAGE_SIZE": 2000}
    bad, good = maildir.add(content), maildir.add(FIELDS + RAW)

    pickup = take_all(maildir)

    [(name, why)] = aside(maildir).items()
    assert name == bad
    assert why.startswith(reason)
    assert (maildir.path / ".errors" / "new" / bad).read_bytes() == content
    assert (pickup.taken, pickup.put_aside, files(maildir)) == (1, 1, [])
    assert Message.objects.count() == 1
    assert good


@pytest.mark.any_database
def test_what_is_no_file_is_put_aside(maildir, tmp_path):
    new = maildir.path / "new"
    (new / "folder" / "deep").mkdir(parents=True)
    os.mkfifo(new / "fifo")
    (new / "link").symlink_to(tmp_path / "elsewhere")
    (new / "left-alone").write_bytes(FIELDS + RAW)
    (new / "left-alone").rename(new / ".hidden")
    maildir.add(FIELDS + RAW)

    take_all(maildir)

    assert aside(maildir) == {
        "folder": "it cannot be read: Not a plain file",
        "fifo": "it cannot be read: Not a plain file",
        "link": "it cannot be read: Too many levels of symbolic links",
    }
    assert files(maildir) == [".hidden"]
    assert Message.objects.count() == 1


@pytest.mark.any_database
def test_what_is_put_aside_takes_nobodys_place(maildir):
    for content in (b"Subject: one\n\n", b"Subject: two\n\n"):
        (maildir.path / "new" / "by-hand.eml").write_bytes(content)
        take_all(maildir)

    put_aside = [path.read_bytes() for path in (maildir.path / ".errors" / "new").iterdir()]
    assert sorted(put_aside) == [b"Subject: one\n\n", b"Subject: two\n\n"]
    assert list(aside(maildir).values()) == 2 * [NO_SENDER]


@pytest.mark.any_database
@pytest.mark.parametrize("name", ["a\nb", "a\x85b", "a\udcffb", "a: b:2,S", "\u202eab"])
def test_reason_is_one_line_and_told_whatever_the_name_of_the_file(maildir, name):
    (maildir.path / "new" / name).write_bytes(RAW)

    take_all(maildir)

    assert aside(maildir) == {name: NO_SENDER}
    [line] = (maildir.path / ".errors" / "reasons.txt").read_text().splitlines()
    assert line.isprintable()


def test_mail_that_only_some_may_get_is_stored_for_these_and_put_aside_too(maildir):
    key = maildir.add(envelope_fields("a@b.test", ["news@localhost", "x@b.test"]) + RAW)

    take_all(maildir)

    assert Delivery.objects.get().recipient == "news@localhost"
    assert list(aside(maildir)) == [key]


def test_file_that_vanishes_is_somebody_elses(maildir, settings):
    settings.MAIL = {**settings.MAIL, "BATCH_SIZE": 1}
    keys = [maildir.add(FIELDS + RAW) for _ in range(3)]
    pickup = Pickup(maildir)
    pickup.take()
    maildir.remove(keys[1])

    while pickup.take():
        pass

    assert Message.objects.count() == pickup.taken == 2


@pytest.mark.django_db(transaction=True)  # SQLite sees it at the commit
def test_what_cannot_be_stored_stays(maildir):
    key = maildir.add(FIELDS + RAW)

    with pytest.raises(IntegrityError):
        Pickup(maildir, queue="no-such-queue", to=["postmaster@localhost"]).take()

    assert files(maildir) == [key]
    assert not (maildir.path / ".errors").exists()


def test_mail_stays_while_nobody_can_say_whether_its_recipient_exists(maildir, handle):
    @accepts
    def exists(host: str) -> bool:
        raise LookupError

    handle(START, exists)
    key = maildir.add(FIELDS + RAW)

    take_all(maildir)

    assert files(maildir) == [key]
    assert not Message.objects.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("locks", ["locks", "no-locks"])
def test_pickups_of_one_maildir_share_the_work(maildir, together, monkeypatch, settings, locks):
    settings.MAIL = {**settings.MAIL, "BATCH_SIZE": 5}
    if locks == "no-locks":  # as on a shared disk where they do not reach other machines
        monkeypatch.setattr(fcntl, "flock", lambda *ignored: None)
    for number in range(60):
        maildir.add(FIELDS + b"Subject: %d\n\n" % number)

    def take() -> None:
        take_all(Maildir(maildir.path))

    together(*[take] * 4)

    subjects = Message.objects.values_list("subject", flat=True)
    assert sorted(subjects, key=int) == [str(number) for number in range(60)]
    assert files(maildir) == []
    assert not Unheard.objects.exists()
