"""The command against real servers that answer as each test wishes."""

import email
import email.policy
import io
import os
import re
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from tests.integration.scripted_server import DROP, SILENCE, scripted_server

ROOT = Path(__file__).resolve().parents[2]


class Run:
    """How one run of the command ended and what it showed."""

    def __init__(self, *arguments, **options):
        output = io.StringIO()
        self.code: str | int | None = 0
        try:
            call_command("sendtest", *arguments, stdout=output, **options)
        except SystemExit as exit:
            self.code = exit.code
        self.output = output.getvalue()

    @property
    def lines(self):
        """The marks and texts, without the times."""
        return [line[12:] for line in self.output.splitlines()]


def send(server, *arguments):
    return Run("--to=reader@localhost", f"--server={server.address}", "--helo=here", *arguments)


@pytest.fixture
def server():
    with scripted_server() as server:
        yield server


@pytest.fixture
def tls(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.chain)
    return context


def read(message):
    """Parse what the server heard as the recipient would see it."""
    plain = message.replace(b"\r\n..", b"\r\n.").replace(b"\r\n", b"\n")
    return email.message_from_bytes(plain, policy=email.policy.default)


def attachments(message):
    return [
        (part.get_filename(), part.get_payload(decode=True)) for part in message.iter_attachments()
    ]


def test_the_whole_dialogue_is_shown_with_marks(server):
    run = send(server, "--from=you@example.com", "--header=Date: today", "--body=Hello")

    assert run.code == 0
    shown = "\n".join(run.lines)
    assert shown.startswith(
        f"=== Trying {server.address}\n"
        f"=== Connected to {server.address}\n"
        "<-  220 mx.test ESMTP\n"
        " -> EHLO here\n"
        "<-  250-mx.test\n"
        "<-  250-SIZE 1000000\n"
    )
    assert " -> MAIL FROM:<you@example.com> SIZE=" in shown
    assert (
        "<-  250 Sender ok\n"
        " -> RCPT TO:<reader@localhost>\n"
        "<-  250 Recipient ok\n"
        " -> DATA\n"
        "<-  354 Go ahead\n"
    ) in shown
    assert shown.endswith(" -> Hello\n -> .\n<-  250 Taken\n -> QUIT\n<-  221 Bye\n=== Done")


def test_each_reply_shows_how_long_it_took(server):
    run = send(server)

    timed = [line for line in run.output.splitlines() if re.match(r" *\d+\.\d ms <-  ", line)]
    assert [line[16:19] for line in timed] == ["220", "250", "250", "250", "354", "250", "221"]


def test_the_receiver_of_the_settings_is_the_default(server, settings):
    settings.MAIL = {**settings.MAIL, "RECEIVER": server.address}

    run = Run("--to=reader@localhost")

    assert run.code == 0
    assert len(server.messages) == 1


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ({"banner": "554 No service"}, 21),
        ({"banner": "HTTP/1.1 400 Bad Request"}, 21),
        ({"EHLO": "550 no", "HELO": "550 no"}, 22),
        ({"EHLO": "421 later"}, 22),
        ({"MAIL": "550 no"}, 23),
        ({"MAIL": "421 later", "QUIT": DROP}, 23),
        ({"RCPT": "550 no"}, 24),
        ({"DATA": "554 no"}, 25),
        ({".": "554 no"}, 26),
        ({"QUIT": "500 what"}, 27),
    ],
)
def test_the_exit_code_tells_the_stage_that_was_refused(script, code):
    with scripted_server(script) as server:
        run = send(server)

    assert run.code == code
    assert any(line.startswith("<** ") for line in run.lines)
    assert run.lines[-1].endswith(f"(exit code {code})")


@pytest.mark.parametrize("stage", ["banner", "EHLO", "MAIL", "RCPT", "DATA", ".", "QUIT"])
def test_a_lost_connection_has_a_code_of_its_own(stage):
    with scripted_server({stage: DROP}) as server:
        run = send(server)

    assert run.code == 6
    assert run.lines[-1].startswith("*** The server closed the connection")


def test_silence_ends_at_the_timeout_with_the_code_of_the_stage():
    with scripted_server({"MAIL": SILENCE}) as server:
        run = send(server, "--timeout=0.1")

    assert run.code == 23
    assert run.lines[-1].startswith("*** No reply within 0.1 seconds")


def test_nobody_listens():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        run = Run("--to=reader@localhost", f"--server=127.0.0.1:{taken.getsockname()[1]}")

    assert run.code == 2
    assert "Connection refused" in run.lines[-1]


def test_a_refused_command_is_followed_by_quit():
    with scripted_server({"MAIL": "550 no"}) as server:
        send(server)

    assert server.verbs == ["EHLO", "MAIL", "QUIT"]


def test_helo_follows_a_refused_ehlo():
    with scripted_server({"EHLO": "502 What?"}) as server:
        run = send(server)

    assert run.code == 0
    assert server.verbs[:2] == ["EHLO", "HELO"]


def test_smtp_says_helo(server):
    send(server, "--protocol=smtp", "--from=a@client.test")

    assert server.commands[:2] == ["HELO here", "MAIL FROM:<a@client.test>"]


def test_one_accepted_recipient_is_enough():
    with scripted_server({"RCPT": ["550 no", "250 ok"]}) as server:
        run = send(server, "--to=other@localhost")

    assert run.code == 0
    assert len(server.messages) == 1


def test_recipients_come_from_options_and_comma_lists(server):
    send(server, "--to=a@localhost, <b@localhost>", '--to="x,y"@localhost')

    assert [command for command in server.commands if command.startswith("RCPT")] == [
        "RCPT TO:<reader@localhost>",
        "RCPT TO:<a@localhost>",
        "RCPT TO:<b@localhost>",
        'RCPT TO:<"x,y"@localhost>',
    ]


@pytest.mark.parametrize("sender", ["", "<>"])
def test_the_null_sender(server, sender):
    send(server, f"--from={sender}", "--protocol=smtp")

    assert "MAIL FROM:<>" in server.commands


def test_addresses_beyond_ascii_are_declared():
    offers = "250-mx.test\r\n250-8BITMIME\r\n250 SMTPUTF8"
    with scripted_server({"EHLO": offers}) as server:
        run = send(server, "--from=jürgen@client.test", "--subject=Grüße")

    assert run.code == 0
    assert "MAIL FROM:<jürgen@client.test> BODY=8BITMIME SMTPUTF8" in server.commands
    assert "Subject: Grüße".encode() in server.messages[0]


def test_lmtp_shows_a_reply_for_each_accepted_recipient():
    script = {"RCPT": ["250 ok", "550 no", "250 ok"], ".": ["250 first", "552 third is full"]}
    with scripted_server(script) as server:
        run = send(server, "--to=b@localhost,c@localhost", "--protocol=lmtp")

    assert run.code == 0
    assert server.verbs[0] == "LHLO"
    assert "<-  250 first" in run.lines
    assert "<** 552 third is full" in run.lines


def test_lmtp_fails_when_nobody_got_the_message():
    with scripted_server({".": "552 full"}) as server:
        run = send(server, "--to=b@localhost", "--protocol=lmtp")

    assert run.code == 26


def test_lmtp_over_a_unix_socket(tmp_path):
    with scripted_server(path=tmp_path / "lmtp") as server:
        run = send(server, "--protocol=lmtp")

    assert run.code == 0
    assert len(server.messages) == 1


def test_starttls_encrypts_what_follows(tls):
    with scripted_server(tls=tls) as server:
        run = send(server, "--starttls")

    assert run.code == 0
    assert server.verbs[:4] == ["EHLO", "STARTTLS", "EHLO", "MAIL"]
    assert " -> STARTTLS" in run.lines
    assert " ~> EHLO here" in run.lines
    assert "<~  250 Taken" in run.lines
    assert any(re.match(r"=== TLSv1\.\d \S+, certificate not verified", line) for line in run.lines)


def test_tls_from_the_first_octet(tls):
    with scripted_server(tls=tls, implicit_tls=True) as server:
        run = send(server, "--tls")

    assert run.code == 0
    assert "<~  220 mx.test ESMTP" in run.lines
    assert "STARTTLS" not in server.verbs


def test_a_trusted_certificate_is_verified(tls, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", certificate.authority)
    with scripted_server(tls=tls) as server:
        run = send(server, "--starttls", "--tls-verify")

    assert run.code == 0
    assert any(line.endswith("certificate verified") for line in run.lines)


@pytest.mark.parametrize("option", ["--starttls", "--tls"])
def test_a_certificate_that_nobody_trusts_ends_the_session(tls, option):
    with scripted_server(tls=tls, implicit_tls=option == "--tls") as server:
        run = send(server, option, "--tls-verify")

    assert run.code == 29
    assert "certificate" in run.lines[-1].lower()
    assert server.messages == []


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ({"EHLO": "250 mx.test"}, 29),
        ({"STARTTLS": "454 not now"}, 29),
        ({"STARTTLS": "220 ok\r\n250 injected"}, 29),
        ({"EHLO": ["250-mx.test\r\n250 STARTTLS", "421 later"]}, 32),
    ],
)
def test_the_exit_code_tells_why_there_is_no_tls(tls, script, code):
    with scripted_server(script, tls=tls) as server:
        run = send(server, "--starttls")

    assert run.code == code
    assert server.messages == []


@pytest.fixture
def password_file(tmp_path):
    file = tmp_path / "password"
    file.write_text("geheim\n")
    return file


def test_auth_plain_is_sent_and_hidden(server, password_file):
    run = send(server, "--auth=you", f"--password-file={password_file}")

    assert run.code == 0
    assert "AUTH PLAIN AHlvdQBnZWhlaW0=" in server.commands
    assert "AHlvdQBnZWhlaW0=" not in run.output
    assert " -> AUTH PLAIN (hidden)" in run.lines


def test_auth_login_answers_the_challenges(password_file):
    offers = "250-mx.test\r\n250 AUTH LOGIN"
    challenges = ["334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6", "235 ok"]
    with scripted_server({"EHLO": offers, "AUTH": challenges}) as server:
        run = send(server, "--auth=you", f"--password-file={password_file}")

    assert run.code == 0
    assert server.commands[1:4] == ["AUTH LOGIN", "eW91", "Z2VoZWlt"]
    assert "Z2VoZWlt" not in run.output


@pytest.mark.parametrize("script", [{"AUTH": "535 no"}, {"EHLO": "250-mx.test\r\n250 AUTH GSSAPI"}])
def test_a_failed_login_has_a_code_of_its_own(script, password_file):
    with scripted_server(script) as server:
        run = send(server, "--auth=you", f"--password-file={password_file}")

    assert run.code == 28
    assert "MAIL" not in server.verbs


@pytest.mark.parametrize(
    ("stage", "verbs"),
    [
        ("connect", ["QUIT"]),
        ("helo", ["EHLO", "QUIT"]),
        ("starttls", ["EHLO", "STARTTLS", "EHLO", "QUIT"]),
        ("auth", ["EHLO", "STARTTLS", "EHLO", "AUTH", "QUIT"]),
        ("mail", ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "QUIT"]),
        ("rcpt", ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "RCPT", "QUIT"]),
        ("data", ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "RCPT", "DATA"]),
        ("dot", ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "QUIT"]),
    ],
)
def test_the_session_can_end_after_each_stage(tls, password_file, stage, verbs):
    with scripted_server(tls=tls) as server:
        run = send(
            server,
            "--starttls",
            "--auth=you",
            f"--password-file={password_file}",
            f"--quit-after={stage}",
        )

    assert run.code == 0
    assert server.verbs == verbs
    assert len(server.messages) == (stage == "dot")


def test_no_recipient_is_needed_before_rcpt(server):
    run = Run(f"--server={server.address}", "--quit-after=mail")

    assert run.code == 0


def test_a_generated_mail_is_complete(server, tmp_path):
    notes = tmp_path / "Notizen für Ann.txt"
    notes.write_text("äöü\n")
    mail = tmp_path / "mail\udcff.eml"
    mail.write_bytes(b"Subject: inner\r\n\r\nbytes \xff\r\n")
    send(
        server,
        "--from=you@example.com",
        "--subject=Grüße aus Köln",
        "--body=Schöne Grüße\n.\nAnn",
        f"--attach={notes}",
        f"--attach={mail}",
        "--header=X-Test: one",
        "--header=X-Test: two",
        "--header=From: Änne <you@example.com>",
    )

    assert server.messages[0].isascii()
    message = read(server.messages[0])
    assert message["Subject"] == "Grüße aus Köln"
    assert message["From"] == "Änne <you@example.com>"
    assert message["To"] == "reader@localhost"
    assert message["Date"].datetime is not None
    assert re.fullmatch(r"<\S+@\S+>", message["Message-ID"])
    assert message.get_all("X-Test") == ["one", "two"]
    assert message.get_body().get_content().splitlines() == ["Schöne Grüße", ".", "Ann"]
    assert attachments(message) == [
        ("Notizen für Ann.txt", notes.read_bytes()),
        ("mail[U+DCFF].eml", mail.read_bytes()),
    ]
    assert message.defects == []


def test_the_body_is_read_from_a_file(server, tmp_path):
    (tmp_path / "letter.txt").write_bytes("Schöne Grüße\r\n".encode())
    send(server, f"--body=@{tmp_path / 'letter.txt'}")

    assert read(server.messages[0]).get_content().splitlines() == ["Schöne Grüße"]


def test_a_raw_message_is_sent_as_it_is(server, tmp_path):
    raw = b"Subject: \xff\n\n.dot\r\n..dots\nbare\rreturn\nno end"
    (tmp_path / "mail.eml").write_bytes(raw)
    send(server, f"--raw={tmp_path / 'mail.eml'}")

    assert server.messages == [
        b"Subject: \xff\r\n\r\n..dot\r\n...dots\r\nbare\rreturn\r\nno end\r\n"
    ]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--quit-after=dot"], "--to is needed"),
        (["--to=a@localhost\r\nDATA"], "--to holds a line break"),
        (["--to=a@localhost", "--from=b@client.test\nRSET"], "--from holds a line break"),
        (["--to=a@localhost", "--subject=a\nBcc: c@client.test"], "--subject holds a line break"),
        (["--to=a@localhost", "--header=X: a\nBcc: c@client.test"], "--header holds a line break"),
        (["--to=a@localhost", "--helo=a\0b"], "--helo holds a line break or NUL"),
        (["--to=a@localhost", "--subject=\udcff"], "--subject is not UTF-8"),
        (["--to=a@localhost", "--header=no colon"], "is not 'Name: value'"),
        (["--to=a@localhost", "--header=Subject: a", "--header=Subject: b"], "at most 1 Subject"),
        (["--to=a@localhost", "--attach=/no/such/file"], "No such file"),
        (["--to=a@localhost", "--raw=/no/such/file"], "No such file"),
        (["--to=a@localhost", f"--raw={__file__}", "--body=x"], "--raw goes with none of"),
        (["--to=a@localhost", "--server=nowhere"], "is not host:port"),
        (["--to=a@localhost", "--count=0"], "is not a number above zero"),
        (["--to=a@localhost", "--timeout=soon"], "is not a number above zero"),
        (["--to=a@localhost", "--quit-after=lunch"], "invalid choice: 'lunch'"),
        (["--to=a@localhost", "--lunch"], "unrecognized arguments: --lunch"),
    ],
)
def test_a_wrong_argument_is_named_in_one_line(arguments, complaint):
    with pytest.raises(CommandError, match=re.escape(complaint)) as caught:
        Run(*arguments)

    assert "\n" not in str(caught.value)
    assert caught.value.returncode == 1


def test_a_hostile_server_cannot_act_on_the_terminal():
    with scripted_server({"banner": "220 \x1b[2J\x9b1mhello"}) as server:
        run = send(server)

    assert "\x1b" not in run.output
    assert r"<-  220 \x1b[2J\x9b1mhello" in run.lines


def test_quiet_shows_nothing_of_a_good_session(server):
    run = send(server, "--quiet")

    assert run.output == ""


def test_the_body_can_be_hidden(server):
    run = send(server, "--hide-body", "--body=secret")

    assert "secret" not in run.output
    assert b"secret" in server.messages[0]


def test_many_mails_give_a_summary(server):
    run = send(
        server,
        "--from=you+{n}@example.com",
        "--subject=Number {n}",
        "--count=20",
        "--concurrency=4",
    )

    assert run.code == 0
    assert re.fullmatch(
        r"20 sent, 0 refused, 0 failed in \d+\.\d\d s: \d+\.\d per second\n", run.output
    )
    assert {read(message)["Subject"] for message in server.messages} == {
        f"Number {n}" for n in range(1, 21)
    }
    assert sum("you+20@example.com" in command for command in server.commands) == 1


def test_the_summary_counts_what_was_refused_and_lost():
    with scripted_server({"MAIL": ["250 ok", "550 no", "550 no", DROP, "250 ok"]}) as server:
        run = send(server, "--count=5")

    assert run.code == 23
    lines = run.output.splitlines()
    assert lines[0].startswith("2 sent, 2 refused, 1 failed")
    assert lines[1:] == ["     2 x 550 no", "     1 x The server closed the connection"]


def run_program(*arguments, stdin=b"", **environment):
    return subprocess.run(
        [sys.executable, ROOT / "manage.py", "sendtest", *arguments],
        input=stdin,
        capture_output=True,
        timeout=60,
        cwd=ROOT,
        env=os.environ | {"PYTHONUTF8": "1"} | environment,
    )


def test_the_program_reads_the_body_from_standard_input(server):
    program = run_program(
        "--to=reader@localhost", f"--server={server.address}", "--body=-", stdin="Grüße\n".encode()
    )

    assert program.returncode == 0, program.stderr
    assert read(server.messages[0]).get_content().splitlines() == ["Grüße"]


def test_the_program_reads_the_password_from_standard_input(server):
    program = run_program(
        "--to=reader@localhost",
        f"--server={server.address}",
        "--auth=you",
        "--password-file=-",
        stdin=b"geheim\n",
    )

    assert program.returncode == 0, program.stderr
    assert "AUTH PLAIN AHlvdQBnZWhlaW0=" in server.commands


def test_the_program_never_waits_for_a_password_that_nobody_can_type(server):
    program = run_program("--to=a@localhost", f"--server={server.address}", "--auth=you")

    assert program.returncode == 1
    assert b"--auth needs --password-file or a terminal" in program.stderr


def test_the_program_names_a_wrong_setting_in_one_line():
    program = run_program("--to=a@localhost", MAIL_RECEIVER="nowhere")

    assert program.returncode == 1
    assert program.stderr == b"MAIL[\"RECEIVER\"] 'nowhere' is not host:port\n"


def test_the_program_exits_with_1_for_wrong_arguments():
    program = run_program("--lunch")

    assert program.returncode == 1
    assert program.stderr.decode().strip() == "Error: unrecognized arguments: --lunch"
