"""A session with a smart host that misbehaves in every way that one can."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from mailapp.endpoints import SmartHost
from mailapp.errors import NoUpstream
from mailapp.relay.connection import Connection, ConnectionBroken
from mailapp.relay.session import Session
from mailapp.relay.upstreams import Upstreams
from tests.integration.scripted_server import DROP, SILENCE, ScriptedServer, scripted_server
from tests.waiting import DEADLINE

RAW = b"Subject: News\r\nMessage-ID: <1@example.com>\r\n\r\nHello\r\n"
PLAIN = "250-mx.test\r\n250-SIZE 1000000\r\n250 8BITMIME"
PIPELINING = "250-mx.test\r\n250-SIZE 1000000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 PIPELINING"
GREETING = ["banner", "EHLO"]
TRANSACTION = ["MAIL", "RCPT", "DATA", "."]
MANY = [f"r{number}@client.test" for number in range(6)]


class Talk:
    """A session with a server, which can be asked what it heard."""

    def __init__(self, server: ScriptedServer, session: Session) -> None:
        self.server = server
        self.session = session

    def send(
        self, *recipients: str, raw: bytes = RAW, sender: str = "you@example.com"
    ) -> dict[str, str]:
        """Send one mail and return the reply for each recipient."""
        replies: dict[str, str] = {}
        waiting = list(recipients or ["reader@client.test"])
        while waiting:
            some = self.session.send(sender, waiting, raw)
            replies |= {recipient: str(reply) for recipient, reply in some.items()}
            waiting = [recipient for recipient in waiting if recipient not in replies]
        return replies


@pytest.fixture(params=[PLAIN, PIPELINING], ids=["plain", "pipelining"])
def offers(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def talk(offers: str) -> Iterator[Callable[..., Talk]]:
    """Open a session with a server of such replies: `talk({"RCPT": "550 no"}, recipients=2)`."""
    with contextlib.ExitStack() as stack:

        def start(
            script: dict[str, str | list[str]] | None = None,
            *,
            recipients: int = 100,
            timeout: float = DEADLINE,
        ) -> Talk:
            replies = {"EHLO": offers, "RSET": "250 Flushed", **(script or {})}
            server = stack.enter_context(scripted_server(replies))
            host = SmartHost.parse(server.address)

            def connect() -> Connection:
                return Connection.open(host, hostname="example.com", timeout=timeout)

            session = Session(Upstreams({host: connect}, [DEADLINE]), recipients=recipients)
            stack.callback(session.close)
            return Talk(server, session)

        yield start


def test_envelope_and_content_reach_the_server_in_one_transaction(talk):
    session = talk({".": "250 2.0.0 Queued as 4F1"})

    replies = session.send("a@client.test", "b@client.test")

    assert replies == dict.fromkeys(["a@client.test", "b@client.test"], "250 2.0.0 Queued as 4F1")
    assert session.server.commands == [
        "ehlo example.com",
        f"MAIL FROM:<you@example.com> SIZE={len(RAW)}",
        "RCPT TO:<a@client.test>",
        "RCPT TO:<b@client.test>",
        "DATA",
    ]
    assert session.server.messages == [RAW]


def test_connection_is_kept_from_mail_to_mail(talk):
    session = talk()

    for _ in range(3):
        session.send()

    assert Counter(session.server.verbs)["EHLO"] == 1
    assert session.server.messages == [RAW] * 3


def test_session_ends_with_a_word_and_can_begin_again(talk):
    session = talk()
    session.send()

    session.session.close()
    session.send()

    verbs = ["EHLO", "MAIL", "RCPT", "DATA"]
    assert session.server.verbs == [*verbs, "QUIT", *verbs]


def test_same_address_twice_is_one_recipient(talk):
    session = talk()

    session.send("a@client.test", "a@client.test")

    assert Counter(session.server.verbs)["RCPT"] == 1


def test_null_sender_is_written_as_such(talk):
    session = talk()

    session.send(sender="")

    assert session.server.commands[1].startswith("MAIL FROM:<> ")


def test_leading_dots_and_bare_line_ends_arrive_as_smtp_wants_them(talk):
    session = talk()

    session.send(raw=b"Subject: x\n\n.\r.two\r\n\0three")

    assert session.server.messages == [b"Subject: x\r\n\r\n..\r\n..two\r\nthree\r\n"]


def test_mail_of_many_blocks_arrives_whole(talk):
    session, raw = talk(), b"0123456789abcde\r\n" * 200_000

    assert session.send(raw=raw) == {"reader@client.test": "250 Taken"}
    assert session.server.messages == [raw]


@pytest.mark.parametrize("stage", TRANSACTION)
@pytest.mark.parametrize("reply", ["451 4.7.1 Later", "554 5.7.1 Never"])
def test_refusal_at_any_stage_is_the_reply_and_the_session_goes_on(talk, stage, reply):
    good = "354 Go" if stage == "DATA" else "250 Ok"
    without_recipient = {"DATA": ["503 5.5.1 No recipient", "354 Go"]} if stage != "." else {}
    session = talk({**without_recipient, stage: [reply, good]})

    assert session.send() == {"reader@client.test": reply}
    assert session.send()["reader@client.test"].startswith("250")
    assert Counter(session.server.verbs)["EHLO"] == 1
    assert len(session.server.messages) == (2 if stage == "." else 1)
    assert ("RSET" in session.server.verbs) == (stage != ".")


def test_refused_recipient_is_refused_alone(talk):
    session = talk({"RCPT": ["250 Ok", "550 5.1.1 Unknown", "250 Ok"]})

    replies = session.send("a@client.test", "b@client.test", "c@client.test")

    assert [reply[:3] for reply in replies.values()] == ["250", "550", "250"]
    assert session.server.messages == [RAW]


def test_reply_of_several_lines_becomes_one(talk):
    session = talk({".": "550-5.7.1 No\r\n550 5.7.1 Never"})

    assert session.send() == {"reader@client.test": "550 5.7.1 No 5.7.1 Never"}


def test_reply_is_cleaned_of_what_no_terminal_should_see(talk):
    session = talk({".": "250 Queued\0 \x1b[2Jas 4F1"})

    [reply] = session.send().values()

    assert reply.isprintable()


# As many recipients as the server takes


def test_more_recipients_than_the_server_takes_are_sent_in_turn(talk):
    too_many = ["452 4.5.3 Too many recipients"] * 4
    session = talk({"RCPT": ["250 Ok", "250 Ok", *too_many, "250 Ok"]})

    replies = session.send(*MANY)

    assert set(replies.values()) == {"250 Taken"}
    assert len(session.server.messages) == 3


def test_more_recipients_than_we_may_send_at_once_are_sent_in_turn(talk):
    session = talk(recipients=4)

    replies = session.send(*MANY)

    assert list(replies) == MANY
    assert len(session.server.messages) == 2


def test_full_mailbox_is_not_taken_for_too_many_recipients(talk):
    session = talk({"RCPT": ["250 Ok", "452 4.2.2 Mailbox full"]})

    replies = session.send("a@client.test", "b@client.test")

    assert replies["b@client.test"] == "452 4.2.2 Mailbox full"
    assert len(session.server.messages) == 1


def test_too_many_that_is_never_fewer_ends(talk):
    session = talk({"RCPT": "452 Too many recipients"})

    assert set(session.send(*MANY).values()) == {"452 Too many recipients"}


def test_what_was_sent_before_the_end_stays_sent(talk):
    session = talk({".": ["250 Ok", DROP]}, recipients=4)

    sent = session.session.send("", MANY, RAW)

    assert list(sent) == MANY[:4]
    with pytest.raises(ConnectionBroken):
        session.session.send("", MANY[4:], RAW)


# What is not sent


@pytest.mark.parametrize(
    "address",
    [
        "a\r\nRCPT TO:<victim@client.test>",
        "a\nb@client.test",
        "a\rb@client.test",
        "a\0b@client.test",
        "a> SIZE=1 <b@client.test",
        "a b@client.test",
        "a\x85b@client.test",
        "\ud800@client.test",
    ],
)
def test_address_that_is_more_than_an_address_never_reaches_the_wire(talk, address):
    session = talk()

    [to] = session.send(address).values()
    [by] = session.send(sender=address).values()

    assert to == "553 5.1.3 Malformed recipient address; nothing was sent"
    assert by == "553 5.1.7 Malformed sender address; nothing was sent"
    assert session.server.verbs == ["EHLO"]


@pytest.mark.parametrize(
    "address", ['"a b>"@client.test', r'"a\"b"@client.test', "a+b=c@[192.0.2.1]"]
)
def test_unusual_address_is_sent_as_it_is(talk, address):
    session = talk()

    session.send(address)

    assert f"RCPT TO:<{address}>" in session.server.commands


def test_mail_beyond_ascii_is_declared(talk):
    session = talk()

    session.send(raw=RAW + "ë\r\n".encode())

    assert session.server.commands[1].endswith(" BODY=8BITMIME")


@pytest.mark.parametrize("offers", ["250 mx.test"], indirect=True)
def test_mail_beyond_ascii_fails_clearly_where_it_cannot_be_sent(talk, offers):
    session = talk()

    assert session.send(raw=RAW + b"\xe9\r\n") == {
        "reader@client.test": "554 5.6.3 The smart host takes no 8-bit mail"
    }


@pytest.mark.parametrize("offers", [PIPELINING], indirect=True)
def test_address_beyond_ascii_is_sent_where_that_is_offered(talk, offers):
    session = talk()

    session.send("lës@client.test")

    assert session.server.commands[1].endswith(" SMTPUTF8")
    assert session.server.commands[2] == "RCPT TO:<lës@client.test>"


@pytest.mark.parametrize("offers", [PLAIN], indirect=True)
def test_address_beyond_ascii_fails_alone_where_it_is_not_offered(talk, offers):
    session = talk()

    replies = session.send("lës@client.test", "reader@client.test")

    assert [reply[:9] for reply in replies.values()] == ["553 5.6.7", "250 Taken"]


@pytest.mark.parametrize("offers", [PLAIN], indirect=True)
def test_sender_beyond_ascii_fails_for_all_where_it_is_not_offered(talk, offers):
    session = talk()

    [reply] = session.send(sender="lës@example.com").values()

    assert reply.startswith("553 5.6.7")


# Trouble


@pytest.mark.parametrize("stage", GREETING)
@pytest.mark.parametrize("reply", [DROP, "421 Busy", "554 Not you", "hello there", ""])
def test_server_that_does_not_let_us_in_is_no_upstream(talk, stage, reply):
    session = talk({stage: reply, "HELO": reply})

    with pytest.raises(NoUpstream):
        session.send()


@pytest.mark.parametrize("stage", TRANSACTION)
@pytest.mark.parametrize(
    "reply", [DROP, "421 4.3.2 Going down", "hello there", "999 What", "", "25", "x" * 9000]
)
def test_server_that_breaks_off_or_babbles_takes_no_mail(talk, stage, reply):
    session = talk({stage: reply})

    with pytest.raises(ConnectionBroken) as broken:
        session.send()

    assert broken.value.content_sent == (stage == ".")
    assert len(session.server.messages) == (stage == ".")


@pytest.mark.parametrize("stage", [*GREETING, *TRANSACTION])
def test_server_that_falls_silent_takes_no_mail(talk, stage):
    session = talk({stage: SILENCE}, timeout=0.05)

    with pytest.raises((NoUpstream, ConnectionBroken)):
        session.send()


def test_server_that_does_not_listen_is_no_upstream():
    with socket.socket() as reserved:  # bound, so that nobody else listens there
        reserved.bind(("127.0.0.1", 0))
        host = SmartHost.parse("127.0.0.1:{1}".format(*reserved.getsockname()))

        with pytest.raises(NoUpstream, match="refused"):
            Connection.open(host, hostname="example.com", timeout=DEADLINE)


def test_old_server_is_greeted_with_helo(talk):
    session = talk({"EHLO": "502 5.5.1 Not implemented"})

    assert session.send() == {"reader@client.test": "250 Taken"}
    assert session.server.verbs[:2] == ["EHLO", "HELO"]


@pytest.mark.parametrize("reply", ["250 Ok", "354 Go ahead\r\n250 Queued"])
def test_reply_that_comes_too_early_does_not_count_as_taken(talk, reply):
    session = talk({"DATA": reply})

    with pytest.raises(ConnectionBroken):
        session.send()

    assert session.server.messages == []


def test_reply_too_many_does_not_count_for_the_next_mail(talk):
    session = talk({".": ["250 Ok\r\n250 Ok", "550 No"]})

    assert session.send() == {"reader@client.test": "250 Ok"}
    assert session.send() == {"reader@client.test": "550 No"}
    assert Counter(session.server.verbs)["EHLO"] == 2


def test_reply_too_many_is_not_taken_for_that_of_another_recipient(talk):
    session = talk({".": ["250 Ok\r\n250 Ok", "250 Ok"], "RCPT": ["250 Ok", "250 Ok", "550 No"]})
    session.send()

    replies = session.send("a@client.test", "b@client.test")

    assert replies == {"a@client.test": "250 Ok", "b@client.test": "550 No"}


def test_server_that_wants_the_mail_to_nobody_gets_none(talk):
    session = talk({"RCPT": ["550 No", "250 Ok"]})

    assert session.send() == {"reader@client.test": "550 No"}
    assert session.send() == {"reader@client.test": "250 Taken"}
    assert session.server.messages == [RAW]


@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("farewell", [DROP, "421 4.4.2 Idle for too long"])
def test_kept_connection_that_was_closed_is_opened_again(talk, stage, farewell):
    good = "354 Go" if stage == "DATA" else "250 Ok"
    session = talk({stage: [good, farewell, good]})
    session.send()

    assert session.send() == {"reader@client.test": "250 Taken"}
    assert Counter(session.server.verbs)["EHLO"] == 2


def test_mail_that_may_have_arrived_is_not_sent_again_at_once(talk):
    session = talk({".": ["250 Ok", DROP, "250 Ok"]})
    session.send()

    with pytest.raises(ConnectionBroken) as broken:
        session.send()

    assert broken.value.content_sent
    assert len(session.server.messages) == 2
    assert session.send() == {"reader@client.test": "250 Ok"}


def test_server_that_hangs_at_quit_does_not_hold_us_up(talk):
    session = talk({"QUIT": SILENCE}, timeout=0.05)
    session.send()

    session.session.close()

    assert session.server.verbs[-1] == "QUIT"
