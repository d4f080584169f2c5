"""The pure parts of the client's dialogue, and what it refuses to send."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailapp.dialogue import Transcript, UnsafeCommand, Wire, on_the_wire, printable


@pytest.fixture
def shown():
    return []


@pytest.fixture
def transcript(shown):
    return Transcript(shown.append)


@given(st.lists(st.sampled_from([b".", b"..", b"a", b"\r", b"\n", b"\r\n", b""])).map(b"".join))
def test_no_message_ends_before_its_last_line(content):
    wire = on_the_wire(content)

    assert b"\r\n.\r\n" not in b"\r\n" + wire
    assert wire == b"" or wire.endswith(b"\r\n")
    assert b"\n" not in wire.replace(b"\r\n", b"")


@given(st.lists(st.binary().filter(lambda line: b"\n" not in line and not line.endswith(b"\r"))))
def test_lines_arrive_as_they_were(lines):
    content = b"".join(line + b"\r\n" for line in lines)

    received = on_the_wire(content).split(b"\r\n")

    assert [
        line.removeprefix(b".") if line[:1] == b"." else line for line in received[:-1]
    ] == lines


@given(st.binary())
def test_no_octet_of_a_server_acts_on_the_terminal(line):
    assert printable(line).isprintable()


@pytest.mark.parametrize("ending", ["\r\n", "\n", "\r", "\0"])
def test_a_command_of_two_lines_is_not_sent(transcript, shown, ending):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire = Wire(ours, transcript)

        with pytest.raises(UnsafeCommand):
            wire.say(f"MAIL FROM:<a@client.test>{ending}DATA".encode())

        ours.shutdown(socket.SHUT_WR)
        assert theirs.recv(100) == b""
    assert shown == []


def test_a_long_message_is_abridged(transcript, shown):
    transcript.sent_message(b"Subject: long\r\n\r\n" + b"line\r\n" * 100)

    assert len(shown) == 41
    assert shown[-1].endswith("=== 62 more lines, 617 octets in all")


def test_a_short_message_is_shown_whole(transcript, shown):
    transcript.sent_message(b"Subject: short\r\n\r\nbody\r\n")

    assert [line.strip() for line in shown] == ["-> Subject: short", "->", "-> body"]


def test_a_long_line_is_cut(transcript, shown):
    transcript.sent_message(b"x" * 5000 + b"\r\n")

    assert len(shown[0]) < 400
    assert shown[0].endswith("x ...")


def test_the_body_can_be_hidden(shown):
    Transcript(shown.append, hide_body=True).sent_message(b"Subject: hi\r\n\r\nsecret\r\n")

    assert [line.strip() for line in shown] == [
        "-> Subject: hi",
        "=== 2 more lines, 23 octets in all",
    ]


def test_quiet_leaves_what_went_wrong(shown):
    transcript = Transcript(shown.append, quiet=True)
    transcript.note("Trying")
    transcript.sent(b"EHLO client.test")
    transcript.received(b"250 mx.test", wanted=True, seconds=0.001)
    transcript.received(b"550 no", wanted=False, seconds=0.002)

    assert [line.strip() for line in shown] == ["2.0 ms <** 550 no"]
