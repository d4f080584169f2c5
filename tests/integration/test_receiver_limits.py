"""Each limit of the receiver, with its timers set short."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterator

import pytest

from mailapp.receiver import replies
from mailapp.receiver.limits import FailedLogins, origin
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
    with _limited(SESSION_SECONDS=0.3, READ_TIMEOUT=30) as (_, client):
        reply = replies.OK
        while reply == replies.OK:
            reply = client.ask(b"RSET")

        assert reply in {replies.TOO_LONG, replies.TOO_MANY_COMMANDS}
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
        assert not logins.too_many("2001:db8::1")
        logins.add(str(ipaddress.ip_address("2001:db8::") + last))

    assert logins.too_many("2001:db8::ffff")
    assert not logins.too_many("2001:db8:0:1::")
