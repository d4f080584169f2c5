"""The other ports: TLS, LMTP, submission, behind a proxy, on a Unix socket."""

from __future__ import annotations

import asyncio
import re
import smtplib
import ssl
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailapp.errors import PortTaken
from mailapp.receiver import replies
from mailapp.receiver.listener import Listener
from mailapp.receiver.lmtp import LmtpDialogue
from mailapp.receiver.server import listening
from mailapp.receiver.submission import SubmissionDialogue
from mailapp.receiver.tls import server_context
from tests.integration.conftest import Certificate
from tests.integration.receiving import (
    Client,
    Receiver,
    Shelf,
    deliver,
    our_settings,
    receiving,
)
from tests.waiting import DEADLINE


@pytest.fixture
def context(certificate: Certificate) -> ssl.SSLContext:
    """Of a client that trusts the receiver."""
    return ssl.create_default_context(cafile=certificate.authority)


@pytest.fixture
def tls(certificate: Certificate) -> ssl.SSLContext:
    return server_context(certificate.chain, "")


def _under_tls(client: Client, context: ssl.SSLContext) -> Client:
    client.socket = context.wrap_socket(client.socket, server_hostname="localhost")
    return client


# TLS


def test_starttls_protects_the_mail(tls: ssl.SSLContext, context: ssl.SSLContext) -> None:
    shelf = Shelf()
    with (
        receiving(shelf, tls=tls) as receiver,
        smtplib.SMTP("localhost", receiver.port, timeout=DEADLINE) as smtp,
    ):
        smtp.starttls(context=context)
        smtp.sendmail("reader@client.test", ["you@example.com"], b"x" * 300_000)

    assert shelf.mails[0].protocol == "ESMTPS"
    assert shelf.mails[0].tls.startswith("TLSv1.3 ")
    assert shelf.mails[0].size == 300_002


def test_tls_from_the_first_byte(tls: ssl.SSLContext, context: ssl.SSLContext) -> None:
    shelf = Shelf()
    with (
        receiving(shelf, tls=tls, tls_at_once=True) as receiver,
        smtplib.SMTP_SSL("localhost", receiver.port, timeout=DEADLINE, context=context) as smtp,
    ):
        assert not smtp.has_extn("starttls")
        smtp.sendmail("reader@client.test", ["you@example.com"], b"Hello.")

    assert shelf.mails[0].protocol == "ESMTPS"


def test_tls_before_1_2_is_refused(tls: ssl.SSLContext) -> None:
    assert tls.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_tls_hello_on_the_plain_port_is_told_so() -> None:
    with receiving() as receiver, receiver.connect() as client:
        client.read_reply()

        client.send(b"\x16\x03\x01\x02\x00\x01\x00")

        assert client.read_replies() == [replies.NOT_SMTP]


def test_a_failed_handshake_ends_only_its_own_session(
    tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving(tls=tls) as receiver:
        with receiver.greeted() as client:
            client.ask(b"STARTTLS")
            client.send(b"NOOP\r\n" * 10)
            client.half_close()
            client.socket.recv(100)  # an alert, or the end

        with receiver.greeted() as client:
            assert deliver(client).startswith(b"250")
    assert not [record for record in caplog.records if record.exc_info]


# LMTP


def test_lmtp_answers_for_each_recipient() -> None:
    shelf = Shelf()
    with (
        receiving(shelf, kind=LmtpDialogue) as receiver,
        receiver.greeted(b"LHLO client.test") as client,
    ):
        assert client.ask(b"EHLO client.test") == replies.UNKNOWN_COMMAND
        client.ask(b"MAIL FROM:<>")
        for recipient in (b"you", b"nobody", b"they", b"YOU"):
            client.ask(b"RCPT TO:<%b@example.com>" % recipient)
        client.ask(b"DATA")
        client.send(b"Hello.\r\n.\r\nQUIT\r\n")

        assert client.read_replies() == [replies.STORED] * 3 + [replies.BYE]
    assert shelf.mails[0].recipients == ["you@example.com", "they@example.com"]
    assert shelf.mails[0].protocol == "LMTP"


def test_lmtp_on_a_unix_socket() -> None:
    shelf = Shelf()
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/lmtp"
        with receiving(shelf, kind=LmtpDialogue, place=path), smtplib.LMTP(path) as lmtp:
            lmtp.sendmail("reader@client.test", ["you@example.com"], b"Hello.")

    assert shelf.mails[0].peer == ""


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_place_that_is_taken_is_named(kind: str, tmp_path: Path) -> None:
    place = str(tmp_path / "lmtp") if kind == "unix" else "127.0.0.1:0"
    with receiving(place=place) as receiver:
        taken = place if kind == "unix" else f"127.0.0.1:{receiver.port}"

        with pytest.raises(PortTaken, match=re.escape(taken)):
            asyncio.run(_open(receiver.listener, taken))


def test_receivers_share_a_port() -> None:
    settings = our_settings(RECEIVER_PROCESSES=2)
    with (
        receiving(settings=settings) as first,
        receiving(settings=settings, place=f"127.0.0.1:{first.port}"),
    ):
        answered = set()
        while len(answered) < 2:  # the kernel chooses by the client's port
            with first.greeted():
                answered.add(len(first.listener.sessions))


async def _open(listener: Listener, place: str) -> None:
    async with listening(listener, place):
        raise AssertionError("it was opened")


# PROXY


PROXIED = {"PROXY_NETWORKS": ["127.0.0.1/32"]}


@pytest.mark.parametrize(
    ("header", "peer"),
    [
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1025 25\r\n", "192.0.2.1"),
        (b"PROXY TCP6 2001:db8::1 2001:db8::2 1025 25\r\n", "2001:db8::1"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\2\1\xc0\0\2\2\4\1\0\x19",
            "192.0.2.1",
        ),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", "127.0.0.1"),
    ],
)
def test_a_trusted_proxy_names_its_client(header: bytes, peer: str) -> None:
    shelf = Shelf()
    with (
        receiving(shelf, settings=our_settings(**PROXIED)) as receiver,
        receiver.connect() as client,
    ):
        client.send(header)
        assert client.read_reply().startswith(b"220")
        client.ask(b"EHLO client.test")

        assert deliver(client).startswith(b"250")
    assert shelf.mails[0].peer == peer


def test_a_proxy_that_names_no_client_is_not_served() -> None:
    with (
        receiving(settings=our_settings(**PROXIED)) as receiver,
        receiver.connect() as client,
    ):
        client.send(b"EHLO client.test\r\n")

        assert client.is_closed()


# Submission


@pytest.fixture
def submission(transactional_db: None, tls: ssl.SSLContext) -> Iterator[Receiver]:
    from django.contrib.auth.models import User

    User.objects.create_user("anna", password="correct horse")
    User.objects.create_user("gone", password="correct horse", is_active=False)
    settings = our_settings(LOGIN_TRIES_PER_HOUR=4, TRUSTED_NETWORKS=[])
    with receiving(settings=settings, kind=SubmissionDialogue, tls=tls) as receiver:
        yield receiver


Connect = Callable[[], Client]


@pytest.fixture
def protected(submission: Receiver, context: ssl.SSLContext) -> Iterator[Connect]:
    clients = []

    def connect() -> Client:
        client = submission.greeted()
        clients.append(client)
        client.ask(b"STARTTLS")
        _under_tls(client, context)
        assert b"AUTH PLAIN LOGIN" in client.ask(b"EHLO client.test")
        return client

    yield connect
    for client in clients:
        client.socket.close()


def _plain(name: bytes, password: bytes) -> bytes:
    return b"AUTH PLAIN " + b64encode(b"\0%b\0%b" % (name, password))


def test_a_user_submits_after_plain(protected: Connect) -> None:
    client = protected()
    assert client.ask(b"MAIL FROM:<>") == replies.LOGIN_FIRST

    assert client.ask(_plain(b"anna", b"correct horse")) == replies.LOGGED_IN

    assert deliver(client).startswith(b"250")
    assert client.ask(_plain(b"anna", b"correct horse")) == replies.LOGGED_IN_ALREADY


def test_a_user_submits_after_login(protected: Connect) -> None:
    client = protected()
    assert client.ask(b"AUTH LOGIN").startswith(b"334 ")
    assert client.ask(b64encode(b"anna")).startswith(b"334 ")

    assert client.ask(b64encode(b"correct horse")) == replies.LOGGED_IN


@pytest.mark.parametrize(
    ("name", "password"),
    [(b"anna", b"wrong"), (b"nobody", b"x"), (b"gone", b"correct horse"), (b"\xff", b"\xff")],
)
def test_anybody_else_does_not(protected: Connect, name: bytes, password: bytes) -> None:
    client = protected()

    assert client.ask(_plain(name, password)) == replies.WRONG_LOGIN
    assert client.ask(b"MAIL FROM:<>") == replies.LOGIN_FIRST


@pytest.mark.parametrize(
    ("command", "code"),
    [(b"AUTH", b"504 5.5.4"), (b"AUTH GSSAPI", b"504 5.5.4"), (b"AUTH PLAIN ?", b"501 5.5.2")],
)
def test_what_is_no_login_is_refused(protected: Connect, command: bytes, code: bytes) -> None:
    assert protected().ask(command).startswith(code)


def test_a_login_may_be_given_up(protected: Connect) -> None:
    client = protected()
    client.ask(b"AUTH LOGIN")

    assert client.ask(b"*").startswith(b"501 5.7.0")
    assert client.ask(b"NOOP") == replies.OK


def test_no_password_is_taken_in_the_clear(submission: Receiver) -> None:
    with submission.greeted() as client:
        assert b"AUTH" not in client.ask(b"EHLO client.test")
        assert client.ask(_plain(b"anna", b"correct horse")) == replies.NEEDS_TLS


def test_three_failed_logins_end_a_session_and_four_close_the_door(protected: Connect) -> None:
    client = protected()
    assert [client.ask(_plain(b"anna", b"wrong")) for _ in range(3)] == [
        replies.WRONG_LOGIN,
        replies.WRONG_LOGIN,
        replies.TOO_MANY_LOGINS,
    ]
    assert client.is_closed()

    client = protected()
    assert client.ask(_plain(b"anna", b"wrong")) == replies.WRONG_LOGIN
    assert client.ask(_plain(b"anna", b"correct horse")) == replies.LOGIN_LATER
