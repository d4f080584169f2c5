"""The command as mutt, cron and others call it, against servers that answer as each test wishes."""

from __future__ import annotations

import email
import getpass
import io
import os
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest
from django.core.management import ManagementUtility

from mailapp.dialogue import on_the_wire
from mailapp.management.sendmail import main
from tests.integration.receiving import receiving
from tests.integration.scripted_server import DROP, OFFERS, ScriptedServer, scripted_server

LETTER = (
    b"From: you@example.com\nTo: reader@localhost\nDate: Thu, 1 Jan 2026 10:00:00 +0000\n"
    b"Message-ID: <1@example.com>\nSubject: Hello\n\nHello.\n"
)

Send = Callable[..., int]


@pytest.fixture
def send(monkeypatch: pytest.MonkeyPatch) -> Send:
    """Call the command with a message on its standard input, for a server if one is given."""

    def run(
        content: bytes,
        *arguments: str,
        to: ScriptedServer | None = None,
        before: Sequence[str] = (),
    ) -> int:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        return main([*(where(to) if to else []), *arguments])

    return run


def where(server: ScriptedServer) -> list[str]:
    host, _, port = server.address.partition(":")
    return ["--host", host, "--port", port]


@pytest.fixture
def server():
    with scripted_server() as server:
        yield server


def envelope(server: ScriptedServer) -> list[str]:
    """The sender and the recipients that the server heard."""
    paths = [command for command in server.commands if command[:4] in {"MAIL", "RCPT"}]
    return [path.partition("<")[2].partition(">")[0] for path in paths]


def read(content: bytes) -> email.message.Message:
    """Parse what the server heard as the recipient would see it."""
    return email.message_from_bytes(content.replace(b"\r\n..", b"\r\n."))


@pytest.mark.parametrize(
    "body",
    [
        b"Hello.\n",
        b"Hello.\r\n",
        b"no line end",
        b".\n..\n...\n.hidden\n",
        b"",
        b"\n\n\n",
        b"From here\n>From there\n",
        bytes(range(1, 13)).replace(b"\n", b"") + b"\n" + bytes(range(14, 256)) + b"\n",
        b"x" * 100_000 + b"\n",
    ],
)
def test_the_message_goes_out_byte_for_byte(send, server, body):
    content = LETTER.replace(b"Hello.\n", body)

    assert send(content, "-i", "reader@localhost", to=server) == 0
    assert server.messages == [on_the_wire(content)]


def test_line_ends_become_those_of_smtp_and_nul_is_left_out(send, server):
    content = LETTER + b"one\rtwo\r\nthree\0\n"

    assert send(content, "-i", "reader@localhost", to=server) == 0
    assert server.messages[0].endswith(b"Hello.\r\none\r\ntwo\r\nthree\r\n")


@pytest.mark.parametrize("dot", [b".\n", b".\r\n", b"."])
def test_a_lone_dot_ends_the_message(send, server, dot):
    assert send(LETTER + dot, "reader@localhost", to=server) == 0
    assert server.messages == [on_the_wire(LETTER)]


def test_what_follows_a_lone_dot_is_not_sent(send, server):
    assert send(LETTER + b"..\n.\nsecret\n", "reader@localhost", to=server) == 0
    assert server.messages == [on_the_wire(LETTER + b"..\n")]


@pytest.mark.parametrize("flag", ["-i", "-oi"])
def test_a_lone_dot_does_not_end_the_message_with(flag, send, server):
    assert send(LETTER + b".\nmore\n", flag, "reader@localhost", to=server) == 0
    assert server.messages == [on_the_wire(LETTER + b".\nmore\n")]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["-oem", "-oi", "-f", "you@example.com", "--", "a@b.test"],
            ["you@example.com", "a@b.test"],
        ),
        (["-FCronDaemon", "-i", "-B8BITMIME", "-oem", "root"], ["{login}", "root@localhost"]),
        (
            ["-i", "-fyou@example.com", "a@b.test", "c@d.test"],
            ["you@example.com", "a@b.test", "c@d.test"],
        ),
        (
            ["-odb", "-om", "-oep", "-G", "-n", "-v", "-bm", "-r", "<>", "a@b.test"],
            ["", "a@b.test"],
        ),
        (["-f", "", "-N", "never", "-R", "hdrs", "-V", "id", "a@b.test"], ["", "a@b.test"]),
        (
            ["-O", "DeliveryMode=b", "-L", "tag", "-X", "/dev/null", "-U", "a@b.test"],
            ["{login}", "a@b.test"],
        ),
        (["-i", "--", "-you@b.test"], ["{login}", "-you@b.test"]),
        (["--", "-q1@b.test"], ["{login}", "-q1@b.test"]),
        (["-q15m", "a@b.test"], ["{login}", "a@b.test"]),
        (["Somebody <a@b.test>, c@d.test", "a@b.test"], ["{login}", "a@b.test", "c@d.test"]),
        (["-f", "You <you@example.com>", '"a b"@b.test'], ["you@example.com", '"a b"@b.test']),
        (
            ["-f", "bücher@bücher.example", "a:b@b.test"],
            ["bücher@xn--bcher-kva.example", "a:b@b.test"],
        ),
    ],
)
def test_flags_are_those_of_other_sendmails(send, server, arguments, expected):
    assert send(LETTER, *arguments, to=server) == 0
    login = f"{getpass.getuser()}@localhost"
    assert envelope(server) == [each.format(login=login) for each in expected]


def test_recipients_are_read_in_the_header(send, server):
    content = (
        b'to: One <one@b.test>, "Two, or three"\n <two@b.test>\n'
        b"CC: friends: three@b.test, one@b.test;\n"
        b"Bcc: four@b.test,\n\tfive\n"
        b"Cc: six@b.test (the sixth, and last)\n"
        b"To: undisclosed-recipients:;\n"
        b"Bcc:\n"
        b"Subject: Bcc: seven@b.test\n\nBcc: eight@b.test\n"
    )

    assert send(content, "-t", "-f", "you@example.com", "nine@b.test", to=server) == 0
    names = ["nine", "one", "two", "three", "four"]
    assert sorted(envelope(server)[1:]) == sorted(
        [*(f"{name}@b.test" for name in names), "five@localhost", "six@b.test"]
    )


def test_blind_copies_stay_blind(send, server):
    padding = b"".join(b"X-%d: %s\n" % (number, b"x" * 90) for number in range(2000))
    content = (
        b"To: a@b.test\nBCC : c@d.test,\n e@f.test\n" + padding + b"bcc: g@h.test\n\nBcc: text\n"
    )

    assert send(content, "-ti", to=server) == 0
    assert envelope(server)[1:] == ["a@b.test", "c@d.test", "e@f.test", "g@h.test"]
    message = read(server.messages[0])
    assert message["Bcc"] is None
    assert message["X-1999"] == "x" * 90
    assert message.get_payload() == "Bcc: text\r\n"


def test_a_mail_that_is_sent_again_goes_to_its_new_recipients(send, server):
    content = b"Resent-To: new@b.test\nResent-Bcc: blind@b.test\n" + LETTER

    assert send(content, "-t", to=server) == 0
    assert envelope(server)[1:] == ["new@b.test", "blind@b.test"]
    assert b"Resent-To" in server.messages[0]
    assert b"blind" not in server.messages[0]


def test_without_t_the_header_is_nobodys_business(send, server):
    content = b"Bcc: c@d.test\n" + LETTER

    assert send(content, "a@b.test", to=server) == 0
    assert envelope(server)[1:] == ["a@b.test"]
    assert server.messages == [on_the_wire(content)]


def test_author_date_and_message_id_are_added_where_they_are_missing(send, server):
    assert send(b"Subject: Hello\n\nHello.\n", "-F", "Zoë, at home", "a@b.test", to=server) == 0

    message = read(server.messages[0])
    name, address = email.utils.parseaddr(message["From"])
    assert str(email.header.make_header(email.header.decode_header(name))) == "Zoë, at home"
    assert address == f"{getpass.getuser()}@localhost"
    assert email.utils.parsedate_to_datetime(message["Date"]).tzinfo
    assert message["Message-ID"].endswith("@localhost>")
    assert server.messages[0].endswith(b"\r\nSubject: Hello\r\n\r\nHello.\r\n")


def test_the_author_is_the_sender_unless_that_is_nobody(send, server):
    assert (
        send(b"Subject: One\n\n", "-f", "you@example.com", "-F", "You", "a@b.test", to=server) == 0
    )
    assert send(b"Subject: Two\n\n", "-f", "<>", "-F", "You", "a@b.test", to=server) == 0

    authors = [read(message)["From"] for message in server.messages]
    assert authors == ["You <you@example.com>", f"You <{getpass.getuser()}@localhost>"]


def test_an_author_beyond_ascii_is_written_as_it_is(send, server):
    assert send(b"Subject: Hello\n\n", "-f", "zoë@example.com", "a@b.test", to=server) == 0
    assert server.messages[0].startswith("From: zoë@example.com\r\n".encode())


@pytest.mark.parametrize(
    ("content", "body"),
    [
        (b"Just a line, as from echo.\n", b"Just a line, as from echo.\r\n"),
        (b"\nSubject: of the body\n", b"Subject: of the body\r\n"),
        (b"Subject: Hello\nno field\n", b"no field\r\n"),
        (b" folded: what\n", b" folded: what\r\n"),
        (b"From root Thu Jan  1 00:00:00 2026\nSubject: Hello\n\nHi\n", b"Hi\r\n"),
        (b"Subject: Hello", b""),
        (b"", b""),
    ],
)
def test_what_is_no_header_is_the_body(send, server, content, body):
    assert send(content, "a@b.test", to=server) == 0

    header, blank, rest = server.messages[0].partition(b"\r\n\r\n")
    assert blank
    assert rest == body
    assert b"\r\nMessage-ID: <" in header
    assert b"From root" not in header


def test_notices_are_asked_of_a_server_that_sends_some(send):
    with scripted_server(
        {"EHLO": f"{OFFERS}\r\n".replace("250-SIZE", "250-DSN\r\n250-SIZE").strip()}
    ) as server:
        code = send(LETTER, "-N", "failure,delay", "-R", "hdrs", "a@b.test", to=server)

    assert code == 0
    assert server.commands[1].endswith(" RET=HDRS")
    assert server.commands[2] == "RCPT TO:<a@b.test> NOTIFY=FAILURE,DELAY"


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ({"banner": "554 no service"}, 69),
        ({"banner": "421 later"}, 75),
        ({"EHLO": "550 no", "HELO": "550 no"}, 69),
        ({"MAIL": "553 5.1.7 bad sender"}, 65),
        ({"MAIL": "552 5.3.4 too big"}, 65),
        ({"MAIL": "550 5.7.1 not you"}, 77),
        ({"MAIL": "451 later"}, 75),
        ({"RCPT": "550 nobody"}, 67),
        ({"RCPT": "550 5.1.1 nobody"}, 67),
        ({"RCPT": "550 5.1.2 no such host"}, 68),
        ({"RCPT": "550 5.7.1 relay denied"}, 77),
        ({"RCPT": "450 4.2.0 later"}, 75),
        ({"DATA": "554 no"}, 69),
        ({".": "554 5.6.0 no mail"}, 65),
        ({".": "554 5.7.0 no"}, 77),
        ({".": "550 5.0.0 no"}, 69),
        ({".": "452 4.3.1 full"}, 75),
        ({".": DROP}, 75),
        ({"MAIL": DROP}, 75),
        ({"banner": "HTTP/1.1 400 Bad Request"}, 75),
    ],
)
def test_the_exit_code_says_what_to_do_with_the_message(send, capsys, script, code):
    with scripted_server(script) as server:
        assert send(LETTER, "a@b.test", to=server) == code

    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("sendmail: ")
    assert output.err.count("\n") == 1


def test_what_was_taken_is_sent_however_the_session_ends(send):
    with scripted_server({"QUIT": DROP}) as server:
        assert send(LETTER, "a@b.test", to=server) == 0


@pytest.mark.parametrize(
    ("replies", "code"),
    [
        (["250 ok", "550 5.1.1 nobody", "250 ok"], 67),
        (["450 later", "550 5.7.1 no", "250 ok"], 77),
        (["250 ok", "450 later", "250 ok"], 75),
    ],
)
def test_nobody_gets_what_somebody_would_not(send, capsys, replies, code):
    with scripted_server({"RCPT": replies}) as server:
        assert send(LETTER, "a@b.test", "c@d.test", "e@f.test", to=server) == code

    assert server.messages == []
    lines = capsys.readouterr().err.splitlines()
    assert f"sendmail: c@d.test: {replies[1]}" in lines
    assert lines[-1] == "sendmail: nothing was sent to the other recipients"


def test_a_receiver_that_is_away_is_worth_another_try(send, capsys):
    with scripted_server() as gone:
        pass

    assert send(LETTER, "a@b.test", to=gone) == 75
    assert "Connection refused" in capsys.readouterr().err


def test_a_host_without_a_name_is_none(send, capsys):
    assert send(LETTER, "--host", "mx..test", "a@b.test") == 68
    assert capsys.readouterr().err.startswith("sendmail: Cannot connect to mx..test:25: ")


def test_the_receiver_of_the_settings_is_the_default(send, server, settings):
    settings.MAIL = {**settings.MAIL, "RECEIVER": server.address, "HOSTNAME": "mail.example.com"}

    assert send(b"Subject: Hello\n\n", "root") == 0
    assert envelope(server) == [f"{getpass.getuser()}@mail.example.com", "root@mail.example.com"]
    assert server.commands[0] == "EHLO mail.example.com"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "to whom?"),
        (["-z", "a@b.test"], "option -z not recognized"),
        (["--nonsense", "a@b.test"], "option --nonsense not recognized"),
        (["-f"], "option -f requires argument"),
        (["-bp"], "-bp is not known here"),
        (["-bd"], "-bd is not known here"),
        (["-N", "sometimes", "a@b.test"], "-N sometimes is not never or some of"),
        (["-N", "never,delay", "a@b.test"], "-N never,delay is not never or some of"),
        (["-R", "some", "a@b.test"], "-R some is not full or hdrs"),
        (["--port", "smtp", "a@b.test"], "--port smtp is not a port"),
        (["--port", "70000", "a@b.test"], "--port 70000 is not a port"),
    ],
)
def test_wrong_arguments_get_one_clear_line(send, capsys, arguments, complaint):
    assert send(LETTER, *arguments) == 64

    error = capsys.readouterr().err
    assert error.startswith(f"sendmail: {complaint}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["a b@c.test"],
        ["a@b.test>"],
        ["a@b.test\r\nRCPT TO:<c@d.test>"],
        ["a@b.test\udcff"],
        ["a@-b.test"],
        ["x" * 65 + "@b.test"],
        [""],
        [","],
        ["-f", "you@", "a@b.test"],
        ["-f", "you@b.test>", "a@b.test"],
        ["-f", "<a@b.test>, <c@d.test>", "a@b.test"],
    ],
)
def test_what_is_no_address_is_told_and_nothing_sent(send, server, capsys, arguments):
    assert send(LETTER, *arguments, to=server) == 65

    assert server.commands == []
    error = capsys.readouterr().err
    assert "not an address" in error
    assert error.count("\n") == 1
    assert error.isascii()


@pytest.mark.parametrize(
    "header",
    [
        b"Subject: to nobody\n",
        b"To: undisclosed-recipients:;\n",
        b"To: \n",
        b"To: one two@b.test\n",
        b"To: " + b"(" * 10_000 + b"\n",
        b"To: \xff@b.test\n",
    ],
)
def test_a_header_that_names_nobody_is_told_and_nothing_sent(send, server, capsys, header):
    assert send(header + b"\nHello\n", "-t", to=server) == 65
    assert server.commands == []
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("flag", ["-oeq", "-eq"])
def test_quiet_leaves_the_exit_code_alone(send, capsys, flag):
    with scripted_server({"RCPT": "550 5.1.1 nobody"}) as server:
        assert send(LETTER, flag, "a@b.test", to=server) == 67
    assert capsys.readouterr() == ("", "")


def test_the_dialogue_is_shown_if_wanted(send, server, capsys):
    assert send(LETTER, "-v", "a@b.test", to=server) == 0
    assert " -> RCPT TO:<a@b.test>\n" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["-q"], ["-q15m"], ["-qRb.test"], ["-bi"]])
def test_there_is_no_queue_to_run(send, arguments):
    assert send(LETTER, *arguments) == 0


def test_a_closed_standard_input_is_told(monkeypatch, server, capsys):
    monkeypatch.setattr("sys.stdin", None)

    assert main([*where(server), "a@b.test"]) == 74
    assert capsys.readouterr().err == (
        "sendmail: there is no standard input to read the message from\n"
    )


def test_needs_no_settings_where_a_host_is_named(server):
    done = run_alone(*where(server), "-f", "you@example.com", "a@b.test", content=LETTER)

    assert (done.returncode, done.stderr) == (0, b"")
    assert server.messages == [on_the_wire(LETTER)]


def test_without_settings_and_host_there_is_nowhere_to_send(server):
    done = run_alone("a@b.test", content=LETTER)

    assert done.returncode == 78
    assert done.stderr.startswith(b"sendmail: Requested setting")
    assert done.stderr.count(b"\n") == 1


def test_bs_lets_the_caller_speak_smtp(server):
    said = b"EHLO here\r\nMAIL FROM:<you@example.com>\r\nQUIT\r\n"

    done = run_alone(*where(server), "-bs", content=said)

    assert done.returncode == 0
    assert server.commands == said.decode().split("\r\n")[:-1]
    assert done.stdout.startswith(b"220 mx.test ESMTP\r\n250-mx.test\r\n")
    assert done.stdout.endswith(b"250 Sender ok\r\n221 Bye\r\n")


def test_bs_says_nothing_before_the_greeting():
    with receiving() as receiver:
        address = ["--host", "127.0.0.1", "--port", str(receiver.port)]
        done = run_alone(*address, "-bs", content=b"NOOP\r\nQUIT\r\n")

    replies = [line[:3] for line in done.stdout.splitlines()]
    assert replies == [b"220", b"250", b"221"]


def run_alone(*arguments: str, content: bytes) -> subprocess.CompletedProcess[bytes]:
    """Run it as the console script does, in a process without settings."""
    program = "import sys; from mailapp.management.sendmail import main; sys.exit(main())"
    environment = {**os.environ}
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        input=content,
        capture_output=True,
        env=environment,
        timeout=60,
        check=False,
    )


def test_manage_py_knows_it_and_its_help_has_an_example(send, server, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(LETTER)))

    with pytest.raises(SystemExit) as ended:
        ManagementUtility(["manage.py", "sendmail", *where(server), "a@b.test"]).execute()
    ManagementUtility(["manage.py", "sendmail", "--help"]).execute()

    assert ended.value.code == 0
    assert len(server.messages) == 1
    assert "manage.py sendmail you@example.com < letter.txt" in capsys.readouterr().out
