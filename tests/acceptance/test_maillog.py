"""The catcher by itself, as a command."""

from __future__ import annotations

import mailbox
import smtplib
import socket

import pytest
from django.core.management import CommandError, call_command

from tests.project import HOST
from tests.waiting import DEADLINE

pytestmark = pytest.mark.any_database


def test_mail_is_kept_or_refused_on_purpose_without_a_database(project, tmp_path):
    installation = project(DATABASE_URL=f"sqlite:///{tmp_path}/nowhere/mail.sqlite3")
    queue, port = tmp_path / "queue", installation.catcher.rpartition(":")[2]
    started = installation.manage(
        *("maillog", "--queue", str(queue), "--port", port, "--fail", "helo:451", "--detach")
    )

    assert started.stdout.startswith(f"Catching mail on {installation.catcher}, kept in {queue}.\n")
    with smtplib.SMTP(HOST, int(port), timeout=DEADLINE) as client:
        assert client.ehlo()[0] == 451
    assert "has ended" in installation.manage("stopmail", f"maillog-{port}").stdout
    program = installation.start(
        "maillog", "--queue", str(queue), "--port", port, until="Ctrl-C ends it."
    )
    with smtplib.SMTP(HOST, int(port), timeout=DEADLINE) as client:
        client.sendmail("you@example.com", ["reader@client.test"], b"Subject: Hi\r\n\r\nHi.\r\n")

    [mail] = mailbox.Maildir(queue, create=False)
    assert (mail["Return-Path"], mail["Subject"]) == ("<you@example.com>", "Hi")
    assert program.stop() == 0
    assert "Caught from <you@example.com> to <reader@client.test>: Hi" in program.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fail", "lunch:451"], "'lunch:451' begins with no stage"),
        (["--port", "25x"], "'25x' is not a port"),
        (["--queue", "README.md", "--port", "0"], "README.md cannot be used as a Maildir"),
    ],
)
def test_wrong_argument_is_named(arguments, said):
    with pytest.raises(CommandError, match=said):
        call_command("maillog", *arguments)


def test_port_that_is_taken_is_named():
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(CommandError, match=rf"{HOST}:{port} \(Address already in use\)"):
            call_command("maillog", "--port", str(port))
