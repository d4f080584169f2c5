"""Each limit of the receiver, with its timers set short."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import logging
import socket
from collections.abc import Iterator
from typing import BinaryIO

import pytest

from mailapp.models import NewMail
from mailapp.receiver import replies
from mailapp.receiver.limits import FailedLogins, origin
from mailapp.receiver.listener import Kept
from tests.integration.receiving import (
    Client,
    Receiver,
    Shelf,
    deliver,
    our_settings,
    receiving,
)
from tests.waiting import wait_until

STRANGERS = {"TRUSTED_NETWORKS": []}


@contextlib.contextmanager
def _limited(**settings: object) -> Iterator[tuple[Receiver, Client]]:
    with (
        receiving(settings=our_settings(**settings)) as receiver,
        receiver.greeted() as client,
    ):
        yield receiver, client


def _wait_for_door(receiver: Receiver) -> Client:
    """Connect until one is let in."""

    def try_door() -> Client | None:
        client = receiver.connect()
        if client.read_reply().startswith(b"220"):
            return client
        client.socket.close()
        return None

    client = wait_until(try_door)
    assert client is not None
    return client


def test_more_connections_than_are_allowed_are_turned_away() -> None:
    with _limited(MAX_CONNECTIONS=1) as (receiver, client):
        with receiver.connect() as second:
            assert second.read_replies() == [replies.TOO_MANY_CONNECTIONS]

        client.ask(b"QUIT")

        with _wait_for_door(receiver):
            pass


def test_one_address_gets_its_share_of_the_connections() -> None:
    with _limited(MAX_CONNECTIONS_PER_ADDRESS=1, **STRANGERS) as (receiver, client):
        with receiver.connect() as second:
            assert second.read_replies() == [replies.TOO_MANY_CONNECTIONS]

        client.ask(b"QUIT")

        with _wait_for_door(receiver):
            pass


def test_a_trusted_address_may_have_any_number_of_connections() -> None:
    with (
        _limited(MAX_CONNECTIONS_PER_ADDRESS=1) as (receiver, _),
        receiver.connect() as second,
    ):
        assert second.read_reply().startswith(b"220")


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_an_ipv6_network_counts_as_one_address(peer: str, expected: str) -> None:
    assert origin(peer) == expected


def test_recipients_over_the_limit_are_put_off_and_the_others_are_kept() -> None:
    with _limited(MAX_RECIPIENTS=2, MAX_ERRORS=3) as (_, client):
        client.ask(b"MAIL FROM:<>")
        given = [client.ask(b"RCPT TO:<%d@example.com>" % number) for number in range(10)]
        assert given == [replies.RECIPIENT_OK] * 2 + [replies.TOO_MANY_RECIPIENTS] * 8
        client.ask(b"DATA")

        assert client.ask(b"Hello.\r\n.").startswith(b"250")


def test_recipients_far_over_the_limit_end_the_session_and_fill_no_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "mailapp")
    with _limited(MAX_RECIPIENTS=2) as (_, client):
        client.ask(b"MAIL FROM:<>")
        client.send(b"RCPT TO:<you@example.com>\r\n" * 200)

        given = client.read_replies()

    assert given == [
        *[replies.RECIPIENT_OK] * 2,
        *[replies.TOO_MANY_RECIPIENTS] * 20,  # ten times as many as may be
        replies.TOO_MANY_COMMANDS,
    ]
    refusals = [record for record in caplog.records if record.getMessage().startswith("Refused")]
    assert len(refusals) == 1


def test_a_client_with_many_commands_at_hand_lets_others_have_their_turn() -> None:
    with _limited(MAX_JUNK_COMMANDS=10**8) as (receiver, client):
        [dialogue] = receiver.listener.sessions._open
        seen: list[int] = []

        def look() -> None:
            seen.append(dialogue.commands)
            if dialogue.commands < 1000:
                receiver._loop.call_soon(look)

        receiver._loop.call_soon_threadsafe(look)
        client.send(b"NOOP\r\n" * 1000)
        assert [client.read_reply() for _ in range(1000)] == [replies.OK] * 1000
        wait_until(lambda: seen[-1] >= 1000)

    assert max(after - before for before, after in itertools.pairwise(seen)) <= 50


def test_one_error_too_many_ends_the_session() -> None:
    with _limited(MAX_ERRORS=3) as (_, client):
        for _ in range(3):
            assert client.ask(b"XYZZY") == replies.UNKNOWN_COMMAND

        assert client.ask(b"XYZZY") == replies.TOO_MANY_ERRORS
        assert client.is_closed()


def test_a_mail_forgives_errors_and_junk() -> None:
    with _limited(MAX_ERRORS=2, MAX_JUNK_COMMANDS=3) as (_, client):
        for _ in range(5):
            client.ask(b"XYZZY")
            client.ask(b"NOOP")
            assert deliver(client).startswith(b"250")


def test_one_junk_command_too_many_ends_the_session() -> None:
    with _limited(MAX_JUNK_COMMANDS=5) as (_, client):  # EHLO was one
        assert [client.ask(b"NOOP") for _ in range(5)] == [
            *[replies.OK] * 4,
            replies.TOO_MANY_COMMANDS,
        ]
        assert client.is_closed()


def test_one_command_too_many_ends_the_session() -> None:
    with _limited(MAX_COMMANDS=3) as (_, client):
        assert client.ask(b"NOOP") == client.ask(b"NOOP") == replies.OK

        assert client.ask(b"NOOP") == replies.TOO_MANY_COMMANDS


def test_a_silent_client_is_dismissed() -> None:
    with _limited(READ_TIMEOUT=0.2) as (_, client):
        assert client.read_replies() == [replies.TOO_SLOW]


def test_a_command_that_trickles_in_is_dismissed() -> None:
    with _limited(READ_TIMEOUT=0.3) as (_, client):
        client.socket.settimeout(0.05)
        while not (reply := _trickle(client, b"N")):
            pass

        assert reply == replies.TOO_SLOW


def test_a_client_that_falls_silent_within_a_mail_is_dismissed() -> None:
    with _limited(READ_TIMEOUT=0.2) as (_, client):
        client.send(b"MAIL FROM:<>\r\nRCPT TO:<you@example.com>\r\nDATA\r\n")

        assert client.read_replies()[-1] == replies.TOO_SLOW


def test_a_mail_that_trickles_in_is_dismissed() -> None:
    settings = {"READ_TIMEOUT": 30, "DATA_GRACE_SECONDS": 0.3, "MIN_DATA_RATE": 1000}
    with _limited(**settings) as (_, client):
        client.send(b"MAIL FROM:<>\r\nRCPT TO:<you@example.com>\r\nDATA\r\n")
        assert [client.read_reply()[:1] for _ in range(3)] == [b"2", b"2", b"3"]
        client.socket.settimeout(0.05)
        while not (reply := _trickle(client, b"x")):
            pass

        assert reply == replies.TOO_SLOW


def _trickle(client: Client, octet: bytes) -> bytes:
    """Send an octet; return the reply that came meanwhile, or b""."""
    with contextlib.suppress(TimeoutError):
        client.send(octet)
        return client.read_reply()
    return b""


def test_a_session_that_lasts_too_long_is_ended() -> None:
    busy = {"MAX_JUNK_COMMANDS": 10**8, "MAX_COMMANDS": 10**8}
    with _limited(SESSION_SECONDS=0.3, READ_TIMEOUT=30, **busy) as (_, client):
        reply = replies.OK
        while reply == replies.OK:
            reply = client.ask(b"RSET")

        assert reply == replies.TOO_LONG
        assert client.is_closed()


def test_a_mail_over_the_limit_is_read_to_its_end_and_refused() -> None:
    with _limited(MAX_MESSAGE_SIZE=1000) as (_, client):
        assert deliver(client, b"x" * 998 + b"\r\n").startswith(b"250")

        assert deliver(client, b"x" * 999 + b"\r\n") == replies.TOO_BIG
        assert client.ask(b"NOOP") == replies.OK


def test_a_mail_without_an_end_is_cut_off_at_twice_the_limit() -> None:
    with _limited(MAX_MESSAGE_SIZE=1000) as (_, client):
        client.send(b"MAIL FROM:<>\r\nRCPT TO:<you@example.com>\r\nDATA\r\n")
        assert [client.read_reply()[:1] for _ in range(3)] == [b"2", b"2", b"3"]

        client.send(b"x" * 3000)

        assert client.read_replies() == [replies.ENDLESS_CONTENT]


def test_a_line_as_long_as_the_limit_is_taken() -> None:
    shelf = Shelf()
    with receiving(shelf) as receiver, receiver.greeted() as client:
        line = b"x" * 3_000_000 + b"\r\n"

        assert deliver(client, line).startswith(b"250")
        assert shelf.mails[0].raw == line


def test_a_client_that_does_not_read_its_replies_is_not_served_on() -> None:
    with _limited(MAX_JUNK_COMMANDS=10**8, MAX_COMMANDS=10**8) as (receiver, client):
        [dialogue] = receiver.listener.sessions._open
        client.socket.setblocking(False)
        while not dialogue.wire._writing_paused:
            with contextlib.suppress(BlockingIOError):
                client.socket.send(b"EHLO client.test\r\n" * 1000)
        served = dialogue.commands

        with contextlib.suppress(BlockingIOError):
            while True:
                client.socket.send(b"EHLO client.test\r\n" * 1000)
        with receiver.greeted() as other:
            assert deliver(other).startswith(b"250")

        assert dialogue.commands == served
        assert dialogue.wire.waiting < 1_000_000


@pytest.mark.parametrize("says_quit", [True, False])
def test_a_client_that_leaves_without_reading_its_replies_is_cut_off(says_quit: bool) -> None:
    with _limited(MAX_JUNK_COMMANDS=10**8, MAX_COMMANDS=10**8) as (receiver, client):
        [dialogue] = receiver.listener.sessions._open
        wire = dialogue.wire
        ours = wire.transport.get_extra_info("socket")
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # so that it is full soon
        asked = b"EHLO client.test\r\n" * 100
        while not wire.transport.get_write_buffer_size():
            due = wire.octets + len(asked)
            client.send(asked)
            wait_until(lambda due=due: wire.octets == due and not wire.waiting)

        if says_quit:
            client.send(b"QUIT\r\n")
        else:
            client.half_close()

        wait_until(lambda: not len(receiver.listener.sessions))


def test_two_thousand_slow_clients_cost_a_good_one_nothing() -> None:
    with receiving() as receiver, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(receiver.connect()) for _ in range(2000)]
        for number, client in enumerate(slow):
            client.send(b"EHLO slow.test\r\nMAIL FROM:<>\r\n"[: number % 30])

        with receiver.greeted() as good:
            for _ in range(20):
                assert deliver(good).startswith(b"250")


def test_no_mail_is_taken_when_a_disk_is_nearly_full() -> None:
    class Full(Shelf):
        def unavailable(self) -> bytes | None:
            return replies.DISK_LOW

    with receiving(Full()) as receiver, receiver.greeted() as client:
        assert client.ask(b"MAIL FROM:<>") == replies.DISK_LOW


def test_a_mail_that_cannot_be_spooled_is_read_to_its_end_and_put_off() -> None:
    settings = our_settings(INLINE_SIZE=100, RUN_DIR="/nowhere")
    with receiving(settings=settings) as receiver, receiver.greeted() as client:
        assert deliver(client, b"QUIT\r\n" * 200_000) == replies.DISK_LOW
        assert client.ask(b"NOOP") == replies.OK


class SpoolWatch(Shelf):
    """Knows which mails came in a spool."""

    def __init__(self) -> None:
        super().__init__()
        self.spooled: list[bool] = []

    async def store(self, mail: NewMail, spool: BinaryIO | None) -> Kept:
        self.spooled.append(spool is not None)
        return await super().store(mail, spool)


def test_contents_that_come_in_together_take_a_bounded_share_of_memory() -> None:
    settings = our_settings(INLINE_SIZE=50_000_000, MAX_MESSAGE_SIZE=50_000_000)
    shelf = SpoolWatch()
    some = (b"x" * 998 + b"\r\n") * 20
    with (
        receiving(shelf, settings=settings) as receiver,
        receiver.greeted() as slow,
        receiver.greeted() as other,
    ):
        memory = receiver.listener.sessions.content_memory
        all_of_it = memory.free
        for line in (b"MAIL FROM:<>", b"RCPT TO:<you@example.com>", b"DATA"):
            slow.ask(line)
        slow.send(some * 2000)
        wait_until(lambda: memory.free < all_of_it - 39_000_000)

        big = some * 2000
        assert deliver(other, big).startswith(b"250")
        assert deliver(other, some).startswith(b"250")
        assert slow.ask(b".").startswith(b"250")
        wait_until(lambda: memory.free == all_of_it)
        assert deliver(other, big).startswith(b"250")

    assert shelf.spooled == [True, False, False, False]
    assert [mail.size for mail in shelf.mails] == [len(big), len(some), len(big), len(big)]


def test_a_mail_for_whose_spool_there_is_no_space_is_read_to_its_end_and_put_off() -> None:
    class Filling(Shelf):
        begun = False

        def unavailable(self) -> bytes | None:
            begun, self.begun = self.begun, True
            return replies.DISK_LOW if begun else None

    settings = our_settings(INLINE_SIZE=100)
    with receiving(Filling(), settings=settings) as receiver, receiver.greeted() as client:
        assert deliver(client, b"QUIT\r\n" * 200) == replies.DISK_LOW
        assert client.ask(b"NOOP") == replies.OK


def test_sigterm_lets_a_transaction_end_and_sends_the_others_away() -> None:
    shelf = Shelf()
    with receiving(shelf) as receiver, receiver.greeted() as busy, receiver.greeted() as idle:
        busy.ask(b"MAIL FROM:<>")

        receiver.ask_to_stop()

        assert idle.read_replies() == [replies.SHUTTING_DOWN]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", receiver.port))
        assert busy.ask(b"RCPT TO:<you@example.com>").startswith(b"250")
        busy.ask(b"DATA")
        assert busy.ask(b"Hello.\r\n.").startswith(b"250")
        assert busy.read_replies() == [replies.SHUTTING_DOWN]
    assert len(shelf.mails) == 1


def test_what_does_not_end_in_time_is_cut_off() -> None:
    with _limited(DRAIN_SECONDS=0.2) as (receiver, client):
        client.ask(b"MAIL FROM:<>")

        receiver.stop()

        assert client.is_closed()


def test_ten_failed_logins_an_hour_are_too_many() -> None:
    logins = FailedLogins(10)
    for last in range(10):
        assert logins.begin(str(ipaddress.ip_address("2001:db8::") + last))

    assert not logins.begin("2001:db8::ffff")
    assert logins.begin("2001:db8:0:1::")


def test_a_login_that_succeeds_counts_for_nothing() -> None:
    logins = FailedLogins(1)
    for _ in range(3):
        assert logins.begin("192.0.2.1")
        logins.give_back("192.0.2.1")

    assert len(logins) == 0


def test_failed_logins_are_forgotten_after_an_hour() -> None:
    logins = FailedLogins(1, hour=0.1)
    logins.begin("192.0.2.1")
    logins.begin("192.0.2.2")

    wait_until(lambda: logins.begin("192.0.2.3") and len(logins) == 1)

    wait_until(lambda: logins.begin("192.0.2.3"))
