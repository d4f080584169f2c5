"""Whatever a client says, it gets replies by the book, and the next client is served."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.fuzzing import fuzzed
from tests.integration.receiving import Receiver, Shelf, our_settings, receiving

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


lines = st.sampled_from(LINES) | st.binary(max_size=40)
line_ends = st.sampled_from([b"\r\n"] * 9 + [b"\n", b"\r", b"\0"])
talks = st.lists(st.tuples(lines, line_ends), max_size=25).map(
    lambda parts: b"".join(line + end for line, end in parts)
)


@settings(fuzzed, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    caplog.clear()
    with receiver.greeted() as client:
        try:
            client.send_in([talk[at : at + cut] for at in range(0, len(talk), cut)])
            client.half_close()
        except OSError:
            pass  # it has hung up on us
        given_replies = client.read_replies()

    for reply in given_replies:
        for line in reply.split(b"\r\n"):
            assert REPLY.fullmatch(line), line
    assert len(given_replies) <= talk.count(b"\n") + 1
    for mail in shelf.mails:
        assert not re.search(rb"\0|\r(?!\n)|(?<!\r)\n", mail.raw)
    shelf.mails.clear()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


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
