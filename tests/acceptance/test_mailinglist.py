"""The conversation of the README, from the command that it names on, with the whole program."""

from __future__ import annotations

import mailbox
import re
import smtplib
from collections.abc import Callable
from email.message import Message
from email.utils import parseaddr
from typing import TYPE_CHECKING

import pytest

from mailapp.endpoints import Endpoint
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.project import Project

CONFIRM = re.compile(r"test\.list-confirm-[0-9a-f]{24}@localhost")
RETURN_PATH = re.compile(r"<bounce\+[0-9]+-[a-z2-7]{10}@localhost>")


@pytest.mark.any_database
def test_list_is_joined_posted_to_and_left(project: Callable[..., Project]):
    from mailapp.models import Conversation, Delivery, Transition

    running = project(WEB="")
    program = running.start("runmail", until="Ctrl-C ends everything.")

    [command] = re.findall(r"manage\.py (sendtest .*)", program.output)
    assert command == "sendtest --to test.list-subscribe@localhost --from you@example.com"
    dialogue = running.manage(*command.split()).stdout
    assert "RCPT TO:<test.list-subscribe@localhost>" in dialogue
    assert "250 2.6.0 Message stored" in dialogue
    confirm(running, "you@example.com", "subscribe to test.list", then="Welcome to test.list")

    send(running, "test.list-subscribe@localhost", "reader@client.test")
    confirm(running, "reader@client.test", "subscribe to test.list", then="Welcome to test.list")

    send(running, "test.list@localhost", "you@example.com", "Hello all")
    for reader in ("you@example.com", "reader@client.test"):
        post = caught(running, reader, "Hello all")
        assert post.get_all("Delivered-To") == [reader, "test.list@localhost"]
        assert RETURN_PATH.fullmatch(post["Return-Path"])
        assert post["List-Id"] == "<test.list.localhost>"
        assert post["From"] == "you@example.com"

    send(running, "test.list-unsubscribe@localhost", "you@example.com")
    confirm(running, "you@example.com", "unsubscribe from test.list", then="You have left")

    send(running, "test.list@localhost", "reader@client.test", "Anybody here?")
    caught(running, "reader@client.test", "Anybody here?")

    mine = running.query(Conversation).get(person="you@example.com")
    moves = running.query(Transition).filter(conversation=mine)
    assert list(moves.values_list("from_state", "to_state")) == [
        ("START", "CONFIRMING_SUBSCRIBE"),
        ("CONFIRMING_SUBSCRIBE", "POSTING"),
        ("POSTING", "POSTING"),
        ("POSTING", "CONFIRMING_UNSUBSCRIBE"),
        ("CONFIRMING_UNSUBSCRIBE", "START"),
    ]
    deliveries = running.query(Delivery).all()
    wait_until(lambda: {each.status for each in deliveries.all()} == {"done"})
    assert {each.attempts for each in deliveries} == {1}
    assert program.stop() == 0
    assert not list(mailbox.Maildir(running.caught)), "somebody got a mail too many"


def send(project: Project, to: str, sender: str, subject: str = "") -> None:
    receiver = Endpoint.parse(project.receiver)
    with smtplib.SMTP(receiver.host, receiver.port) as smtp:
        smtp.sendmail(sender, [to], f"From: {sender}\r\nSubject: {subject}\r\n\r\n".encode())


def confirm(project: Project, person: str, wish: str, *, then: str) -> None:
    """Answer the confirmation that came, to the address that it names."""
    confirmation = caught(project, person, f"Please confirm: {wish}")
    address = parseaddr(confirmation["From"])[1]
    assert CONFIRM.fullmatch(address)
    assert confirmation["Reply-To"] == address
    send(project, address, person)
    caught(project, person, then)


def caught(project: Project, recipient: str, subject: str) -> Message:
    """Take the mail to `recipient` with that subject out of the catcher's Maildir."""
    maildir = mailbox.Maildir(project.caught)

    def found() -> str | None:
        fitting = (
            key
            for key, mail in maildir.items()
            if recipient in mail.get_all("Delivered-To") and subject in mail["Subject"]
        )
        return next(fitting, None)

    return maildir.pop(wait_until(found))
