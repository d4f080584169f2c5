"""The rules of the dialogue, one by one: what is no command, where content begins and ends."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator

import pytest

from mailapp.receiver import replies
from tests.integration.receiving import Client, Receiver, Shelf, deliver, our_settings, receiving
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving(settings=our_settings(GREET_SECONDS=0.001)) as receiver:
        yield receiver


@pytest.fixture
def client(receiver: Receiver) -> Iterator[Client]:
    with receiver.greeted() as client:
        yield client


def test_no_line_of_the_log_can_be_forged_by_an_address_that_is_refused(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "mailapp")
    for forged in (b"\r2026-01-01", b"\x1b[31m", b"\x85", b"\xe2\x80\xa8", b"\xff", b"' to", b"%s"):
        client.ask(b"MAIL FROM:<a" + forged + b" ERROR all is lost@client.test>")
        client.ask(b"RCPT TO:<a" + forged + b" ERROR all is lost@example.com>")

    written = [record.getMessage() for record in caplog.records]
    assert len(written) == 14
    assert all(line.isprintable() for line in written)


# What is no command.


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET / HTTP/1.1\r\n",
        b"GET / HTTP/1.1\n",
        b"get /\r\n",
        b"GET\t/\r\n",
        b"GET / HTTP/1.0 \r\n",
        b"GET /" + b"a" * 2000 + b" HTTP/1.1\r\n",
        b"GET /" + b"a" * 2000 + b"\r\n",
        b"POST /\xff HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PROPFIND / HTTP/1.1\r\n",
        b"M-SEARCH * HTTP/1.1\r\n",
        b"XYZZY / HTTP/1.1\r\n",
        b"NOOP / HTTP/1.1\r\n",
        b"EHLO / HTTP/3\n",
        b"HELP /" + b"a" * 2000 + b" HTTP/1.1\r\n",
    ],
)
def test_a_request_of_http_gets_one_reply_and_is_closed(
    client: Client, request_line: bytes
) -> None:
    client.send(request_line + b"Host: x\r\n\r\nRSET\r\nQUIT\r\n")

    assert client.read_replies() == [replies.NOT_SMTP]


@pytest.mark.parametrize("line", [b"GETS", b"GET-ON", b"NOOP HTTP/1.1 it is", b"HELP GET / HTTP/x"])
def test_what_only_resembles_http_is_answered_as_usual(client: Client, line: bytes) -> None:
    assert client.ask(line) in {replies.UNKNOWN_COMMAND, replies.OK, replies.HELP}
    assert client.ask(b"RSET") == replies.OK


@pytest.mark.parametrize(
    ("line", "longest"),
    [
        (b"NOOP ", 512),
        (b"XYZZY ", 512),
        (b"RCPT TO:<you@example.com> ", 512),
        (b"MAIL FROM:<> ", 565),
        (b"AUTH PLAIN ", 512),
    ],
)
def test_each_command_has_its_longest_line(client: Client, line: bytes, longest: int) -> None:
    filled = line.ljust(longest - 1 - 2) + b"x"

    assert client.ask(filled[:-2] + b"x") != replies.LINE_TOO_LONG
    assert client.ask(filled) != replies.LINE_TOO_LONG
    assert client.ask(b" ".join([line, filled[len(line) :]])) == replies.LINE_TOO_LONG


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("R\u017fET", replies.UNKNOWN_COMMAND),
        ("QU\u0131T", replies.UNKNOWN_COMMAND),
        ("MAIL FROM:<> \u017fMTPUTF8", replies.UNKNOWN_PARAMETER),
        ("MAIL FROM:<> BODY=8B\u0131TMIME", replies.UNKNOWN_PARAMETER),
        ("MAIL FROM:<> SMTPUTF8 \u017fIZE=1", replies.UNKNOWN_PARAMETER),
    ],
)
def test_letters_that_are_ascii_in_capitals_are_none(
    client: Client, line: str, reply: bytes
) -> None:
    assert client.ask(line.encode()) == reply


@pytest.mark.parametrize("torn", [b"NOOP\r", b"NOOP", b"\r", b"\xff"])
def test_a_line_that_breaks_off_is_refused(client: Client, torn: bytes) -> None:
    client.send(b"NOOP\r\n" + torn)
    client.half_close()

    assert client.read_replies() == [replies.OK, replies.BAD_LINE]


def test_a_client_that_hangs_up_between_lines_hears_no_more(client: Client) -> None:
    client.send(b"NOOP\r\n")
    client.half_close()

    assert client.read_replies() == [replies.OK]


def test_what_follows_bdat_is_not_run(client: Client) -> None:
    client.send(b"BDAT 19 LAST\r\nRSET\r\nNOOP\r\nQUIT\r\n")

    assert client.read_replies() == [replies.NOT_IMPLEMENTED]


def test_a_recipient_that_is_not_known_is_not_known_in_quotes(client: Client) -> None:
    client.ask(b"MAIL FROM:<>")

    assert client.ask(b'RCPT TO:<"nobody"@example.com>') == replies.NO_SUCH_RECIPIENT
    assert client.ask(b'RCPT TO:<"no\\body"@example.com>') == replies.NO_SUCH_RECIPIENT
    assert client.ask(b'RCPT TO:<"postmaster">') == replies.RECIPIENT_OK


# The beginning and the end of content.


@pytest.mark.parametrize("envelope", [b"MAIL FROM:<>\r\nRCPT TO:<you@example.com>\r\n", b""])
def test_nothing_may_follow_data_before_its_reply(client: Client, envelope: bytes) -> None:
    client.send(envelope + b"DATA\r\nRSET\r\n.\r\nNOOP\r\n")

    assert client.read_replies() == [
        *[replies.SENDER_OK, replies.RECIPIENT_OK][: envelope.count(b"\n")],
        replies.NOT_IN_SYNC,
    ]


def test_content_that_comes_before_the_354_in_a_segment_of_its_own_is_refused() -> None:
    class Slow(Shelf):
        def __init__(self) -> None:
            super().__init__()
            self.go_on = asyncio.Event()

        async def refusal(self, recipient: str) -> bytes | None:
            await self.go_on.wait()
            return None

    slow = Slow()
    content = b"Hello.\r\n.\r\nNOOP\r\n"
    with receiving(slow) as receiver, receiver.greeted() as client:
        [dialogue] = receiver.listener.sessions._open
        client.send(b"MAIL FROM:<>\r\nRCPT TO:<you@example.com>\r\nDATA\r\n")
        wait_until(lambda: dialogue.wire.waiting == len(b"DATA\r\n"))
        client.send(content)
        wait_until(lambda: dialogue.wire.waiting == len(b"DATA\r\n" + content))

        receiver._loop.call_soon_threadsafe(slow.go_on.set)

        assert client.read_replies() == [
            replies.SENDER_OK,
            replies.RECIPIENT_OK,
            replies.NOT_IN_SYNC,
        ]
    assert not slow.mails


MALFORMED = b"Hello.\n\r\n.\r\n"


def _begin_data(client: Client) -> None:
    for line in (b"MAIL FROM:<>", b"RCPT TO:<you@example.com>", b"DATA"):
        client.ask(line)


def test_after_helo_nothing_behind_a_refused_mail_is_run(receiver: Receiver) -> None:
    with receiver.greeted(b"HELO client.test") as client:
        _begin_data(client)

        client.send(MALFORMED + b"RSET\r\nNOOP\r\n")

        assert client.read_replies() == [replies.BARE_LINE_ENDS]


def test_after_ehlo_what_is_behind_a_refused_mail_is_run(client: Client) -> None:
    _begin_data(client)

    client.send(MALFORMED + b"NOOP\r\nQUIT\r\n")

    assert client.read_replies() == [replies.BARE_LINE_ENDS, replies.OK, replies.BYE]


def test_bare_line_ends_are_made_whole_if_it_is_set_so() -> None:
    shelf = Shelf()
    settings = our_settings(BARE_LINE_ENDS="normalise")
    with receiving(shelf, settings=settings) as receiver, receiver.greeted() as client:
        _begin_data(client)

        assert client.ask(b"a\nb\rc\r\nd\n.\ne\n.\r\n\r\n.").startswith(b"250")

        _begin_data(client)
        assert client.ask(b"a\0b\r\n.") == replies.BARE_LINE_ENDS
    [mail] = shelf.mails
    assert mail.raw == b"a\r\nb\r\nc\r\nd\r\n.\r\ne\r\n.\r\n\r\n"


# Errors of our own.


def _is_told_under_an_id(reply: bytes, caplog: pytest.LogCaptureFixture) -> bool:
    found = re.fullmatch(rb"451 4\.3\.0 Temporary failure \(error ([0-9a-f]{12})\)", reply)
    assert found, reply
    number = found[1].decode()
    return [number in record.getMessage() for record in caplog.records if record.exc_info] == [True]


def test_an_error_in_a_command_is_told_to_the_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Shelf):
        async def refusal(self, recipient: str) -> bytes | None:
            raise RuntimeError("secret")

    with receiving(Broken()) as receiver, receiver.greeted() as client:
        client.ask(b"MAIL FROM:<>")
        reply = client.ask(b"RCPT TO:<you@example.com>")

        assert client.ask(b"NOOP") == replies.OK
    assert _is_told_under_an_id(reply, caplog)


def test_an_error_at_the_door_is_told_to_the_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Shelf):
        def closed(self) -> bytes | None:
            raise RuntimeError("secret")

    with receiving(Broken()) as receiver, receiver.connect() as client:
        [reply] = client.read_replies()

    assert _is_told_under_an_id(reply, caplog)


def test_an_error_within_a_mail_lets_no_line_of_it_run(caplog: pytest.LogCaptureFixture) -> None:
    no_folder = our_settings(INLINE_SIZE=100, RUN_DIR="\0")  # a ValueError, for which none looks
    with receiving(settings=no_folder) as receiver, receiver.greeted() as client:
        _begin_data(client)
        client.send(b"NOOP\r\n" * 50)
        client.send(b"NOOP\r\n" * 50)

        [reply] = client.read_replies()

        with receiver.greeted() as other:
            assert deliver(other).startswith(b"250")
    assert _is_told_under_an_id(reply, caplog)
