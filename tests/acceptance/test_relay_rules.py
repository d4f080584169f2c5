"""The two tests of every mail server: it is no open relay, and it forwards what it should."""

from __future__ import annotations

import contextlib
import mailbox
import smtplib
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from mailapp.endpoints import Endpoint
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.project import Project

SENDERS = ["stranger@elsewhere.test", "postmaster@localhost", ""]
FOREIGN = {
    "reader@elsewhere.test": "5.7.1",
    "reader@localhost.elsewhere.test": "5.7.1",
    "reader@[127.0.0.1]": "5.7.1",
    "reader": "5.1.3",
    "@localhost:reader@elsewhere.test": "5.7.1",
    "@localhost,@elsewhere.test:reader@elsewhere.test": "5.7.1",
    "reader%elsewhere.test@localhost": "5.1.1",
    "elsewhere.test!reader@localhost": "5.1.1",
    '"reader@elsewhere.test"@localhost': "5.1.1",
    "reader@elsewhere.test@localhost": "5.1.3",
}
RAW = b"Subject: =?utf-8?q?Caf=C3=A9?=\r\nX-Odd:  two  blanks\r\n\r\n.dots \r\n..and more\r\n"


@pytest.fixture(scope="module")
def forwarding(shared_project: Callable[..., Project]) -> Project:
    """A server that forwards all it is allowed to."""
    from mailapp.models import Handler

    running = shared_project(WEB="")
    forward = running.query(Handler).filter(module="mailapp.handlers.forward")
    assert forward.update(enabled=True)
    running.start("runmail", until="Ctrl-C ends everything.")
    return running


def listens(server: Project) -> bool:
    with contextlib.suppress(ConnectionRefusedError):
        session(server).close()
        return True
    return False


def session(server: Project) -> smtplib.SMTP:
    """Connect as a stranger does."""
    receiver = Endpoint.parse(server.receiver)
    connected = smtplib.SMTP(receiver.host, receiver.port)
    connected.ehlo("elsewhere.test")
    return connected


@pytest.mark.any_database
def test_recipient_that_no_handler_knows_is_refused_in_the_dialogue(project):
    server = project()
    server.start("runmail", "--only", "receiver", until="")
    wait_until(lambda: listens(server))

    with session(server) as smtp:
        smtp.mail("stranger@elsewhere.test")
        unknown, reason = smtp.rcpt("unheard.of@localhost")
        new, _ = smtp.rcpt("unheard.of-subscribe@localhost")

    assert (unknown, reason[:5]) == (550, b"5.1.1")
    assert new == 250


def test_server_is_no_open_relay(forwarding):
    from mailapp.models import Message

    before = forwarding.query(Message).count()

    for sender in SENDERS:
        for recipient, enhanced_status in FOREIGN.items():
            with session(forwarding) as smtp:
                assert smtp.docmd(f"MAIL FROM:<{sender}>")[0] == 250

                code, text = smtp.docmd(f"RCPT TO:<{recipient}>")

                assert code in {550, 553}, recipient
                assert text.decode().startswith(enhanced_status), recipient
                assert smtp.docmd("DATA")[0] == 503

    assert forwarding.query(Message).count() == before


@pytest.mark.parametrize("sender", ["stranger@elsewhere.test", ""])
def test_mail_for_our_hosts_is_forwarded_as_it_came(forwarding, sender):
    with session(forwarding) as smtp:
        smtp.sendmail(sender, ["any-body@localhost"], RAW)

    maildir = mailbox.Maildir(forwarding.caught)
    [key] = wait_until(maildir.keys)
    caught, octets = maildir[key], maildir.get_bytes(key)
    maildir.remove(key)
    assert caught["Return-Path"] == f"<{sender}>"
    assert caught["Delivered-To"] == "any-body@localhost"
    assert octets.endswith(RAW.replace(b"\r\n", b"\n"))
