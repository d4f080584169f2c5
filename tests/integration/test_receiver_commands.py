"""Whatever a client says, it gets replies by the book, and the next client is served."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzzing import fuzzed
from tests.integration.receiving import Receiver, Shelf, our_settings, receiving
from tests.plain_reader import is_malformed, read_content

LINES = [
    b"EHLO client.test",
    b"HELO client.test",
    b"MAIL FROM:<reader@client.test>",
    b"MAIL FROM:<> SMTPUTF8 SIZE=10",
    b"RCPT TO:<you@example.com>",
    b"RCPT TO:<nobody@example.com>",
    b"DATA",
    b".",
    b"..",
    b"RSET",
    b"NOOP",
    b"QUIT",
    b"STARTTLS",
    b"AUTH PLAIN",
    b"BDAT 1 LAST",
    b"HELP",
    b"VRFY you",
    b"",
]
REPLY = re.compile(rb"(?:220 |250[ -]|354 |[245](\d\d) [245]\.\d{1,3}\.\d{1,3} )[ -~]*")


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Receiver, Shelf]]:
    shelf = Shelf()
    with receiving(
        shelf, settings=our_settings(MAX_MESSAGE_SIZE=2000, GREET_SECONDS=0.001)
    ) as receiver:
        yield receiver, shelf


@pytest.fixture(scope="module")
def patient() -> Iterator[tuple[Receiver, Shelf]]:
    """A receiver that never has enough of a client."""
    shelf = Shelf()
    limits = {"MAX_ERRORS": 10**6, "MAX_JUNK_COMMANDS": 10**6, "GREET_SECONDS": 0.001}
    with receiving(shelf, settings=our_settings(**limits)) as receiver:
        yield receiver, shelf


lines = st.sampled_from(LINES) | st.binary(max_size=40)
line_ends = st.sampled_from([b"\r\n"] * 9 + [b"\n", b"\r", b"\0"])
talks = st.lists(st.tuples(lines, line_ends), max_size=25).map(
    lambda parts: b"".join(line + end for line, end in parts)
)


@fuzzed
@given(talk=talks, cut=st.integers(1, 200))
@example(talk=b"MAIL FROM:<>\r\nRCPT TO:<you@example.com>\r\nDATA\r\n.\r\n.\r\n", cut=9)
@example(talk=b"A" * 20_000, cut=200)
def test_any_talk_gets_replies_by_the_book(
    shared: tuple[Receiver, Shelf],
    caplog: pytest.LogCaptureFixture,
    talk: bytes,
    cut: int,
) -> None:
    receiver, shelf = shared
    shelf.mails.clear()
    caplog.clear()
    with receiver.greeted() as client:
        try:
            receiver.send_in(client, [talk[at : at + cut] for at in range(0, len(talk), cut)])
            client.half_close()
        except OSError:
            pass  # it has hung up on us
        given_replies = client.read_replies()

    for reply in given_replies:
        for line in reply.split(b"\r\n"):
            assert REPLY.fullmatch(line), line
    assert len(given_replies) <= talk.count(b"\n") + 1
    for mail in shelf.mails:
        assert not is_malformed(mail.raw)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


class PlainRules:
    """The order of commands (RFC 5321 4.1.4), and which mails come of it."""

    def __init__(self) -> None:
        self.mails: list[tuple[str, list[str], bytes]] = []
        self._hello = False
        self._recipients: list[str] | None = None  # None: no MAIL yet
        self._sender = ""

    def reply(self, line: bytes) -> int:
        """The code of the reply to a command."""
        verb = line.partition(b" ")[0].upper()
        if verb in {b"EHLO", b"HELO"}:
            self._hello, self._recipients = True, None
            return 250
        if verb == b"RSET":
            self._recipients = None
            return 250
        if verb == b"MAIL":
            if not self._hello or self._recipients is not None:
                return 503
            self._sender, self._recipients = _address(line), []
            return 250
        if verb == b"RCPT":
            return self._rcpt(_address(line))
        if verb == b"DATA":
            return 354 if self._recipients else 503
        return OTHERS[line]

    def _rcpt(self, recipient: str) -> int:
        if self._recipients is None:
            return 503
        if not recipient:
            return 501
        if recipient.startswith("nobody"):
            return 550
        if recipient not in self._recipients:
            self._recipients.append(recipient)
        return 250

    def content(self, stream: bytes) -> int:
        """The code of the reply to what followed the 354."""
        read = read_content(stream)
        assert read is not None
        recipients, self._recipients = self._recipients, None
        if is_malformed(read[0]):
            return 550
        self.mails.append((self._sender, recipients or [], read[0]))
        return 250


def _address(line: bytes) -> str:
    return line.partition(b"<")[2].partition(b">")[0].decode()


OTHERS = {
    b"NOOP": 250,
    b"noop x": 250,
    b"VRFY you": 252,
    b"HELP": 214,
    b"STARTTLS": 502,
    b"AUTH PLAIN": 502,
    b"XYZZY": 500,
    b"\xff": 500,
    b"NO\tOP": 500,
    b"": 500,
}
ORDERED = [
    b"EHLO client.test",
    b"helo client.test",
    b"MAIL FROM:<reader@client.test>",
    b"mail from: <>",
    b"RCPT TO:<you@example.com>",
    b"rcpt to: <me@example.net>",
    b"RCPT TO:<nobody@example.com>",
    b"RCPT TO:<>",
    b"RSET",
]
CONTENTS = [b"", b"Hello.\r\n", b"..\r\n", b"QUIT\r\n", b"a\n.\r\n", b"\r\r\n", b"\0\r\n"]
commands = st.sampled_from(ORDERED) | st.sampled_from(ORDERED) | st.sampled_from(list(OTHERS))
contents = st.lists(st.sampled_from(CONTENTS), max_size=3).map(b"".join)
WHOLE = [b"EHLO client.test", b"MAIL FROM:<reader@client.test>", b"RCPT TO:<you@example.com>"]


@fuzzed
@given(
    turns=st.lists(st.tuples(st.lists(commands, max_size=6) | st.just(WHOLE), contents), max_size=5)
)
@example(turns=[(WHOLE, b"Hello.\r\n"), (WHOLE[1:], b"\n.\r\n"), ([*WHOLE, b"RSET"], b"")])
def test_any_order_of_commands_is_answered_by_the_plain_rules(
    patient: tuple[Receiver, Shelf], turns: list[tuple[list[bytes], bytes]]
) -> None:
    receiver, shelf = patient
    shelf.mails.clear()
    rules = PlainRules()
    with receiver.connect() as client:
        assert client.read_reply().startswith(b"220")
        for lines, content in turns:
            lines = [*lines, b"DATA"]  # after which a group of commands must end (RFC 2920 3.1)
            client.send(b"".join(line + b"\r\n" for line in lines))
            replies = [client.read_reply() for _ in lines]
            assert [int(reply[:3]) for reply in replies] == [rules.reply(line) for line in lines]
            if replies[-1].startswith(b"354"):
                client.send(content + b".\r\n")
                assert int(client.read_reply()[:3]) == rules.content(content + b".\r\n")
        assert client.ask(b"QUIT").startswith(b"221")
        assert client.is_closed()

    assert [(mail.sender, mail.recipients, mail.raw) for mail in shelf.mails] == rules.mails


def test_no_line_of_the_log_can_be_forged(
    shared: tuple[Receiver, Shelf], caplog: pytest.LogCaptureFixture
) -> None:
    receiver, _ = shared
    caplog.set_level(logging.DEBUG, "mailapp")
    forged = b"EHLO x' (y)\r2026-01-01 ERROR\x1b[31m\xe2\x80\xa8ERROR all is lost"
    with receiver.connect() as client:
        client.read_reply()
        client.ask(forged)
        client.ask(b"EHLO 'x%s'")
        client.ask(b'MAIL FROM:<"\\"a %s b"@client.test> SMTPUTF8')
        client.ask(b"RCPT TO:<${env}%s@example.com>")
        client.ask(b"DATA")
        assert client.ask(b"Hello.\r\n.").startswith(b"250")

    written = [record.getMessage() for record in caplog.records]
    assert len(written) == 2
    assert all(line.isprintable() for line in written)
    assert not any("all is lost" in line for line in written)


def test_log_of_refusals_names_addresses_but_nothing_that_may_be_a_password(
    shared: tuple[Receiver, Shelf], caplog: pytest.LogCaptureFixture
) -> None:
    receiver, _ = shared
    caplog.set_level(logging.DEBUG, "mailapp")

    with receiver.greeted() as client:
        client.ask(b"MAIL FROM:<writer@client.test>")
        client.ask(b"RCPT TO:<reader@elsewhere.test>")
        client.ask(b"AUTH PLAIN AHlvdQBzZWNyZXQ=")
        client.ask(b"c2VjcmV0")

    written = "\n".join(record.getMessage() for record in caplog.records)
    assert "550 5.7.1" in written
    assert "reader@elsewhere.test" in written
    assert "AHlvdQBzZWNyZXQ" not in written
    assert "c2VjcmV0" not in written
