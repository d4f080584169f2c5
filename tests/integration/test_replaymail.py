"""The mail of mailboxes, sent to servers that answer as each test wishes."""

from __future__ import annotations

import io
import mailbox
import re
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from mailapp.dialogue import on_the_wire
from mailapp.maildir import Maildir, envelope_fields
from tests.integration.scripted_server import DROP, ScriptedServer, scripted_server


class Run:
    """How one run of the command ended and what it showed."""

    def __init__(self, *arguments: object) -> None:
        out, err = io.StringIO(), io.StringIO()
        self.code: str | int | None = 0
        try:
            call_command("replaymail", *map(str, arguments), stdout=out, stderr=err, no_color=True)
        except SystemExit as ended:
            self.code = ended.code
        except CommandError as error:
            self.code = error.returncode
            err.write(str(error))
        self.summary, _, self.reasons = out.getvalue().partition("\n")
        self.error = err.getvalue().strip()


def replay(server: ScriptedServer, *arguments: object) -> Run:
    return Run(f"--server={server.address}", *arguments)


@pytest.fixture
def server():
    with scripted_server() as server:
        yield server


def mail(number: int) -> bytes:
    return b"From: a%d@b.test\nTo: c@d.test\nSubject: %d\n\n.\nHello.\n" % (number, number)


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """An mbox of three mails."""
    made = mailbox.mbox(tmp_path / "box")
    for number in range(3):
        made.add(mail(number))
    made.close()
    return tmp_path / "box"


def envelopes(server: ScriptedServer) -> list[str]:
    """Senders and recipients, in order."""
    paths = [command for command in server.commands if command[:4] in {"MAIL", "RCPT"}]
    return [path.partition("<")[2].partition(">")[0] for path in paths]


def test_each_mail_is_sent_over_one_session_with_a_summary(server, box):
    run = replay(server, box)

    assert run.code == 0
    assert re.fullmatch(
        r"3 sent, 0 refused, 0 failed in \d+\.\d\d s: [\d.]+ per second", run.summary
    )
    assert (run.reasons, run.error) == ("", "")
    assert server.messages == [on_the_wire(mail(number)) for number in range(3)]
    assert (server.verbs.count("EHLO"), server.verbs.count("QUIT")) == (1, 1)
    assert envelopes(server)[:2] == ["a0@b.test", "c@d.test"]


def test_the_receiver_of_the_settings_is_the_default(server, box, settings):
    settings.MAIL = {**settings.MAIL, "RECEIVER": server.address}

    assert Run(box).code == 0
    assert len(server.messages) == 3


def test_the_envelope_is_what_the_options_say(server, box):
    replay(server, box, "--from=<>", "--to=x@y.test", "--to=z")

    assert envelopes(server)[:3] == ["", "x@y.test", "z@localhost"]


def test_the_envelope_that_a_maildir_keeps_is_not_sent_in_the_mail(server, tmp_path):
    caught = envelope_fields("you@example.com", ["one@b.test", "two@b.test"]) + mail(1)
    Maildir(tmp_path / "queue", create=True).add(caught)

    assert replay(server, tmp_path / "queue").code == 0
    assert envelopes(server) == ["you@example.com", "one@b.test", "two@b.test"]
    assert server.messages == [on_the_wire(mail(1))]


def test_a_count_begins_again_at_the_end(server, box):
    run = replay(server, box, "--count=7")

    assert run.summary.startswith("7 sent")
    assert server.messages[6] == server.messages[3] == server.messages[0]


def test_a_count_may_be_less_than_all(server, box):
    assert replay(server, box, "--count=2").summary.startswith("2 sent")


def test_a_count_of_nothing_ends(server, tmp_path):
    (tmp_path / "empty").touch()

    assert replay(server, tmp_path / "empty", "--count=2").summary.startswith("0 sent")


def test_sessions_share_the_mails(server, box):
    run = replay(server, box, "--count=200", "--concurrency=4")

    assert run.summary.startswith("200 sent, 0 refused, 0 failed")
    assert len(server.messages) == 200
    assert 1 <= server.verbs.count("EHLO") <= 4


def test_a_rate_is_kept(server, box):
    run = replay(server, box, "--count=11", "--rate=100", "--concurrency=3")

    seconds = float(run.summary.split(" in ")[1].split()[0])
    assert seconds >= 0.1  # ten pauses of ten milliseconds; never faster, however slow it is here


@pytest.mark.parametrize(
    ("script", "code", "summary", "reason"),
    [
        ({"MAIL": ["550 no", "250 ok"]}, 23, "2 sent, 1 refused, 0 failed", "1 x 550 no"),
        ({"RCPT": ["550 nobody", "250 ok"]}, 24, "2 sent, 1 refused, 0 failed", "1 x 550 nobody"),
        ({".": "554 no"}, 26, "0 sent, 3 refused, 0 failed", "3 x 554 no"),
        ({".": ["250 ok", "451 later"]}, 26, "1 sent, 2 refused, 0 failed", "2 x 451 later"),
        ({"MAIL": ["421 closing", "250 ok"]}, 23, "2 sent, 1 refused, 0 failed", "1 x 421 closing"),
        ({".": [DROP, "250 ok"]}, 6, "2 sent, 0 refused, 1 failed", "1 x The server closed"),
        ({"QUIT": DROP}, 0, "3 sent, 0 refused, 0 failed", ""),
    ],
)
def test_what_is_refused_or_lost_is_counted_and_the_rest_sent(box, script, code, summary, reason):
    with scripted_server(script) as server:
        run = replay(server, box)

    assert run.code == code
    assert run.summary.startswith(summary)
    assert run.reasons.strip().startswith(reason)


def test_a_recipient_that_is_refused_counts_though_others_got_it(box):
    with scripted_server({"RCPT": ["250 ok", "550 nobody", "250 ok"]}) as server:
        run = replay(server, box, "--to=a@b.test", "--to=c@d.test")

    assert run.code == 24
    assert run.summary.startswith("2 sent, 1 refused")
    assert len(server.messages) == 3


@pytest.mark.parametrize(
    ("script", "code"),
    [({"banner": "554 no service"}, 21), ({"EHLO": "550 no", "HELO": "550 no"}, 22)],
)
def test_it_ends_when_no_session_can_be_had(box, script, code):
    with scripted_server(script) as server:
        run = replay(server, box, "--count=1000")

    assert run.code == code
    assert run.summary.startswith("0 sent, 1 refused")
    assert run.error == "Ended early: there is no session to be had."


def test_nobody_listens(box):
    with scripted_server() as gone:
        pass

    run = replay(gone, box, "--concurrency=2")

    assert run.code == 2
    assert run.summary.startswith("0 sent, 0 refused")
    assert "Cannot connect" in run.reasons


def test_what_cannot_be_sent_is_told_and_keeps_out_no_others(server, tmp_path):
    box = tmp_path / "letters"
    box.mkdir()
    (box / "1.eml").write_bytes(b"Subject: to nobody\n\n")
    (box / "2.eml").write_bytes(mail(1))
    (box / "3.eml").symlink_to("nowhere")

    run = replay(server, box, "--count=3")

    assert run.code == 1
    assert run.summary.startswith("3 sent")
    assert run.error.splitlines() == [
        f"{box}/1.eml: nothing says whom it is for: name --to",
        f"{box}/3.eml: No such file or directory",
    ]


def test_news_come_each_thousand_mails(server, box):
    assert replay(server, box, "--count=1001").error == "1000 tried"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "Error: the following arguments are required: FILE-or-DIR"),
        (["gone"], "No mail can be read there: gone is not there"),
        (["gone", "--rate=0"], "Error: argument --rate: '0' is not a number above zero"),
        (["gone", "--count=some"], "Error: argument --count: 'some' is not a number above zero"),
        (["gone", "--server=nowhere"], "--server: 'nowhere' is not host:port"),
        (["gone", "--to=a b"], "--to: This is not an address"),
        (["gone", "--from=@"], "--from: This is not an address"),
    ],
)
def test_wrong_arguments_get_one_clear_line(arguments, complaint):
    run = Run(*arguments)

    assert run.code == 1
    assert run.error.startswith(complaint)
    assert run.error.count("\n") == 0
