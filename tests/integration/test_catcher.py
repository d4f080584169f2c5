"""The private mail catcher: everything from this machine ends in a Maildir."""

from __future__ import annotations

import logging
import mailbox
from pathlib import Path

from mailapp.receiver import replies
from mailapp.receiver.catcher import Catcher
from mailapp.receiver.limits import networks
from tests.integration.receiving import deliver, our_settings, receiving


def test_a_mail_is_caught_with_its_envelope_on_top(tmp_path: Path) -> None:
    with (
        receiving(Catcher(str(tmp_path / "queue"))) as receiver,
        receiver.greeted() as client,
    ):
        client.ask(b"MAIL FROM:<reader@client.test>")
        client.ask(b"RCPT TO:<anybody@elsewhere.test>")
        client.ask(b"RCPT TO:<you@example.com>")
        client.ask(b"DATA")
        assert client.ask(b"Subject: Hello\r\n\r\nHello.\r\n.") == replies.STORED

    [mail] = mailbox.Maildir(tmp_path / "queue", create=False)
    assert mail.get_all("Return-Path") == ["<reader@client.test>"]
    assert mail.get_all("Delivered-To") == ["anybody@elsewhere.test", "you@example.com"]
    assert mail.get_payload() == "Hello.\n"
    [path] = (tmp_path / "queue" / "new").iterdir()
    assert b"\r" not in path.read_bytes()


def test_a_large_mail_is_caught_whole(tmp_path: Path) -> None:
    content = b"Subject: Hello\r\n\r\n" + b"x" * 500 + b"\r\n"
    settings = our_settings(INLINE_SIZE=10)
    queue = Catcher(str(tmp_path / "queue"))
    with receiving(queue, settings=settings) as receiver, receiver.greeted() as client:
        deliver(client, content * 1000)

    [path] = (tmp_path / "queue" / "new").iterdir()
    assert path.read_bytes().endswith((content * 1000).replace(b"\r\n", b"\n"))


def test_nobody_from_elsewhere_is_let_in(tmp_path: Path) -> None:
    queue = Catcher(str(tmp_path / "queue"))
    with (
        receiving(queue, only_from=networks(["192.0.2.0/24"])) as receiver,
        receiver.connect() as client,
    ):
        assert client.read_replies() == [replies.NOT_FROM_THERE]


HOSTILE = (
    b"From: reader@client.test\r\nSubject: =?utf-8?q?Hello=1B[2J=0D=0Aforged?=\r\n\r\n"
    b"\x1b]0;title\x07Hello.\r\n" + b"More.\r\n" * 12
)


def test_without_a_maildir_a_mail_is_shown_and_logged_and_nothing_reaches_the_terminal(
    caplog,
) -> None:
    shown: list[str] = []
    caplog.set_level(logging.INFO, "mailapp.receiver.catcher")
    with receiving(Catcher(show=shown.append)) as receiver, receiver.greeted() as client:
        deliver(client, HOSTILE)

    [text] = shown
    lines = text.splitlines()
    assert lines[0].startswith("From <")
    assert lines[3].startswith("  Subject: Hello")
    assert lines[5:] == [
        r"  \x1b]0;title\x07Hello.",
        *["  More."] * 9,
        "  (3 more lines)",
    ]
    assert all(line.isprintable() for line in lines)
    [record] = caplog.records
    assert record.getMessage().startswith("Caught from <")
