"""The other ports: TLS, LMTP, submission, behind a proxy, on a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import select
import smtplib
import ssl
import tempfile
import threading
import warnings
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from mailapp.errors import PortTaken
from mailapp.models import NewMail
from mailapp.receiver import replies
from mailapp.receiver.listener import Kept, Listener
from mailapp.receiver.lmtp import LmtpDialogue
from mailapp.receiver.protocol import Dialogue
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
from tests.waiting import DEADLINE, wait_until


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


def _old_client(version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    return context


def test_tls_before_1_2_is_refused(tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mailapp")
    with receiving(tls=tls, tls_at_once=True) as receiver:
        with receiver.connect() as client:
            _under_tls(client, _old_client(ssl.TLSVersion.TLSv1_2))
            assert client.read_reply().startswith(b"220")

        with receiver.connect() as client, pytest.raises(ssl.SSLError):
            _under_tls(client, _old_client(ssl.TLSVersion.TLSv1_1))
    assert "UNSUPPORTED_PROTOCOL" in caplog.text


EXTENSIONS = {"SIZE 26214400", "8BITMIME", "PIPELINING", "SMTPUTF8", "ENHANCEDSTATUSCODES"}


def _extensions(reply: bytes) -> set[str]:
    first, *lines = reply.decode().split("\r\n")
    assert first == "250-example.com"
    return {line[4:] for line in lines}


@pytest.mark.parametrize("kind", [Dialogue, SubmissionDialogue, LmtpDialogue])
def test_what_is_advertised_before_tls_and_within(
    kind: type[Dialogue], tls: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    hello = b"LHLO client.test" if kind is LmtpDialogue else b"EHLO client.test"
    within = {"AUTH PLAIN LOGIN"} if kind is SubmissionDialogue else set()
    with receiving(kind=kind) as receiver, receiver.greeted(b"RSET") as client:
        assert _extensions(client.ask(hello)) == EXTENSIONS
    with receiving(kind=kind, tls=tls) as receiver, receiver.greeted(b"RSET") as client:
        assert _extensions(client.ask(hello)) == EXTENSIONS | {"STARTTLS"}

        client.ask(b"STARTTLS")
        _under_tls(client, context)

        assert _extensions(client.ask(hello)) == EXTENSIONS | within


def test_a_connection_counts_before_it_has_shaken_hands(
    tls: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    settings = our_settings(MAX_CONNECTIONS_PER_ADDRESS=1, TRUSTED_NETWORKS=[])
    with receiving(settings=settings, tls=tls, tls_at_once=True) as receiver:
        with receiver.connect():
            wait_until(lambda: len(receiver.listener.sessions) == 1)
            with receiver.connect() as second:
                assert second.is_closed()

        wait_until(lambda: not len(receiver.listener.sessions))
        with receiver.connect() as client:
            _under_tls(client, context)
            assert client.read_reply().startswith(b"220")


@pytest.mark.parametrize("at_once", [True, False])
def test_a_handshake_that_stalls_is_ended(tls: ssl.SSLContext, at_once: bool) -> None:
    settings = our_settings(READ_TIMEOUT=0.3)
    with (
        receiving(settings=settings, tls=tls, tls_at_once=at_once) as receiver,
        receiver.connect() as client,
    ):
        if not at_once:
            client.read_reply()
            assert client.ask(b"STARTTLS") == replies.START_TLS
        client.send(b"\x16\x03\x01")

        assert client.is_closed()
        wait_until(lambda: not len(receiver.listener.sessions))


@pytest.mark.parametrize("at_once", [True, False])
def test_a_client_that_goes_within_the_handshake_is_forgotten(
    tls: ssl.SSLContext, at_once: bool
) -> None:
    with receiving(tls=tls, tls_at_once=at_once) as receiver:
        with receiver.connect() as client:
            if not at_once:
                client.read_reply()
                client.ask(b"STARTTLS")
            wait_until(lambda: len(receiver.listener.sessions) == 1)

        wait_until(lambda: not len(receiver.listener.sessions))


def test_a_handshake_is_cut_off_at_the_end(
    tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    settings = our_settings(DRAIN_SECONDS=0.1)
    with (
        receiving(settings=settings, tls=tls, tls_at_once=True) as receiver,
        receiver.connect() as client,
    ):
        wait_until(lambda: len(receiver.listener.sessions) == 1)

        receiver.stop()

        assert client.is_closed()
    assert not [record for record in caplog.records if record.exc_info]


def test_a_handshake_may_come_in_any_pieces(tls: ssl.SSLContext, context: ssl.SSLContext) -> None:
    with receiving(tls=tls, tls_at_once=True) as receiver, receiver.connect() as client:
        _shake_hands(client, context, size=7)

        assert client.read_reply().startswith(b"220")


class _Under:
    """The socket of a client that says something before TLS, in the same segment."""

    def __init__(self, client: Client, context: ssl.SSLContext, before: bytes, size: int) -> None:
        self._socket, self._size = client.socket, size
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname="localhost")
        self._out.write(before)
        self._try(self._tls.do_handshake)

    def _try(self, act: Callable[..., Any], *arguments: Any) -> Any:
        while True:
            try:
                return act(*arguments)
            except ssl.SSLWantReadError:
                self._flush()
                self._in.write(self._socket.recv(65536) or self._in.write_eof() or b"")
            finally:
                self._flush()

    def _flush(self) -> None:
        while piece := self._out.read(self._size):
            self._socket.sendall(piece)

    def sendall(self, data: bytes) -> None:
        self._try(self._tls.write, data)

    def recv(self, size: int) -> bytes:
        received: bytes = self._try(self._tls.read, size)
        return received

    def close(self) -> None:
        self._socket.close()


def _shake_hands(
    client: Client, context: ssl.SSLContext, *, before: bytes = b"", size: int = 65536
) -> None:
    client.socket = _Under(client, context, before, size)  # type: ignore[assignment]


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


def test_a_mail_that_is_refused_for_many_is_one_error() -> None:
    with (
        receiving(kind=LmtpDialogue, settings=our_settings(MAX_ERRORS=2)) as receiver,
        receiver.greeted(b"LHLO client.test") as client,
    ):
        for _ in range(2):
            client.ask(b"MAIL FROM:<>")
            for number in range(30):
                client.ask(b"RCPT TO:<%d@example.com>" % number)
            client.ask(b"DATA")
            client.send(b"Hello.\n\r\n.\r\n")
            assert [client.read_reply() for _ in range(30)] == [replies.BARE_LINE_ENDS] * 30

        assert client.ask(b"XYZZY") == replies.TOO_MANY_ERRORS


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
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8" + b"/run/x".ljust(216, b"\0"), ""),
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


def test_a_header_that_does_not_come_is_not_waited_for_for_ever() -> None:
    settings = our_settings(READ_TIMEOUT=0.2, **PROXIED)
    for start in (b"", b"PROXY TCP4 192.0", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0"):
        with receiving(settings=settings) as receiver, receiver.connect() as client:
            client.send(start)

            assert client.read_replies() == [replies.TOO_SLOW]


def test_a_header_without_an_end_is_told_so() -> None:
    with (
        receiving(settings=our_settings(**PROXIED)) as receiver,
        receiver.connect() as client,
    ):
        client.send(b"PROXY " + b"x" * 20_000)

        assert client.read_replies() == [replies.ENDLESS_LINE]


@pytest.mark.parametrize(
    ("first", "second", "third"),
    [
        ("2001:db8::1", "2001:db8::2:1", "2001:db8:0:1::1"),
        ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
    ],
)
def test_the_clients_of_a_proxy_are_counted_one_by_one(first: str, second: str, third: str) -> None:
    def header(peer: str) -> bytes:
        kind, own = ("TCP6", "2001:db8::ff") if ":" in peer else ("TCP4", "192.0.2.255")
        return f"PROXY {kind} {peer} {own} 1025 25\r\n".encode()

    settings = our_settings(MAX_CONNECTIONS_PER_ADDRESS=1, **PROXIED)
    with receiving(settings=settings) as receiver, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(receiver.connect()) for _ in range(3)]
        given = []
        for client, peer in zip(clients, (first, second, third), strict=True):
            client.send(header(peer))
            given.append(client.read_reply()[:3])

    assert given == [b"220", b"421", b"220"]


@pytest.mark.parametrize("size", [65536, 1])
def test_tls_from_the_first_byte_behind_a_proxy(
    tls: ssl.SSLContext, context: ssl.SSLContext, size: int
) -> None:
    shelf = Shelf()
    header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1025 25\r\n"
    with (
        receiving(shelf, settings=our_settings(**PROXIED), tls=tls, tls_at_once=True) as receiver,
        receiver.connect() as client,
    ):
        _shake_hands(client, context, before=header, size=size)
        assert client.read_reply().startswith(b"220")
        client.ask(b"EHLO client.test")

        assert deliver(client).startswith(b"250")
    assert (shelf.mails[0].peer, shelf.mails[0].protocol) == ("192.0.2.1", "ESMTPS")


# Submission


@pytest.fixture
def users(transactional_db: None) -> None:
    from django.contrib.auth.models import User

    User.objects.create_user("anna", password="correct horse")
    User.objects.create_user("gone", password="correct horse", is_active=False)


@pytest.fixture
def submission(users: None, tls: ssl.SSLContext) -> Iterator[Receiver]:
    settings = our_settings(LOGIN_TRIES_PER_HOUR=4, TRUSTED_NETWORKS=[])
    with receiving(settings=settings, kind=SubmissionDialogue, tls=tls) as receiver:
        yield receiver


Connect = Callable[..., Client]


@pytest.fixture
def protected(submission: Receiver, context: ssl.SSLContext) -> Iterator[Connect]:
    clients = []

    def connect(receiver: Receiver = submission) -> Client:
        client = receiver.greeted()
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
    [
        (b"AUTH", b"501 5.5.4"),
        (b"AUTH GSSAPI", b"504 5.5.4"),
        (b"AUTH PLA\xc4\xb1N", b"501 5.5.4"),
        (b"AUTH PLAIN ?", b"501 5.5.2"),
        (b"AUTH PLAIN AGFubmE=", b"501 5.5.2"),
        (b"AUTH PLAIN \xc4\xb1", b"501 5.5.4"),
        (b"AUTH PLAIN AGEAYg== x", b"501 5.5.4"),
        (b"AUTH LOGIN ?", b"501 5.5.2"),
        (b"AUTH PLAIN ".ljust(12286, b"?"), b"501 5.5.2"),
        (b"AUTH PLAIN ".ljust(12287, b"?"), b"500 5.5.2"),
    ],
)
def test_what_is_no_login_is_refused(protected: Connect, command: bytes, code: bytes) -> None:
    assert protected().ask(command).startswith(code)


@pytest.mark.parametrize(
    ("parameter", "code"),
    [
        (b"AUTH=<>", b"250"),
        (b"AUTH=e+3Dmc2@example.com SIZE=5", b"250"),
        (b"AUTH=".ljust(500, b"a"), b"250"),
        (b"AUTH=<> AUTH=<>", b"501"),
        (b"AUTH=a+zz", b"501"),
        (b"AUTH=", b"501"),
        (b"AUTH", b"501"),
    ],
)
def test_author_of_a_submitted_mail_may_be_named(
    protected: Connect, parameter: bytes, code: bytes
) -> None:
    client = protected()
    client.ask(_plain(b"anna", b"correct horse"))

    assert client.ask(b"MAIL FROM:<anna@client.test> " + parameter).startswith(code)


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


def test_the_lines_of_a_login_are_lines_of_text(protected: Connect) -> None:
    for line in (b"\xff", b"AGEAYg==\t", b"\0"):
        client = protected()
        client.ask(b"AUTH PLAIN")
        assert client.ask(line) == replies.BAD_LINE
        assert client.ask(b"NOOP") == replies.OK

    client = protected()
    client.ask(b"AUTH PLAIN")
    client.send(b"AGEAYg==\nNOOP\r\n")
    assert client.read_replies() == [replies.BAD_LINE]


def test_logins_that_are_none_are_errors(protected: Connect) -> None:
    client = protected()
    for _ in range(10):
        assert client.ask(b"AUTH PLAIN ?").startswith(b"501")
        client.ask(b"AUTH LOGIN")
        assert client.ask(b"*").startswith(b"501")

    assert client.ask(b"AUTH PLAIN ?") == replies.TOO_MANY_ERRORS


@pytest.mark.parametrize(
    ("acted_for", "reply"), [(b"anna", replies.LOGGED_IN), (b"boss", replies.WRONG_LOGIN)]
)
def test_nobody_logs_in_for_somebody_else(
    protected: Connect, acted_for: bytes, reply: bytes
) -> None:
    response = b64encode(acted_for + b"\0anna\0correct horse")
    client = protected()
    assert client.ask(b"AUTH PLAIN").startswith(b"334")

    assert client.ask(response) == reply


def test_a_trusted_network_may_fail_to_log_in_as_often_as_it_likes(
    users: None, protected: Connect, tls: ssl.SSLContext
) -> None:
    settings = our_settings(LOGIN_TRIES_PER_HOUR=1)
    with receiving(settings=settings, kind=SubmissionDialogue, tls=tls) as trusting:
        for _ in range(2):
            client = protected(trusting)
            assert client.ask(_plain(b"anna", b"wrong")) == replies.WRONG_LOGIN
        assert client.ask(_plain(b"anna", b"correct horse")) == replies.LOGGED_IN


def test_who_logs_in_rightly_is_not_counted(protected: Connect) -> None:
    for _ in range(6):
        assert protected().ask(_plain(b"anna", b"correct horse")) == replies.LOGGED_IN


class Gate:
    """A backend of Django's that takes its time to say no, until it is opened."""

    opened = threading.Event()

    def authenticate(self, request: Any, username: str = "", password: str = "") -> None:
        self.opened.wait(DEADLINE)


@pytest.fixture
def gate(settings: Any) -> Iterator[threading.Event]:
    settings.AUTHENTICATION_BACKENDS = [
        "django.contrib.auth.backends.ModelBackend",
        f"{__name__}.Gate",
    ]
    Gate.opened.clear()
    yield Gate.opened
    Gate.opened.set()


def test_logins_at_the_same_time_are_no_more_tries(
    gate: threading.Event, protected: Connect
) -> None:
    clients = [protected() for _ in range(10)]
    for client in clients:
        client.send(_plain(b"anna", b"wrong") + b"\r\n")

    answered = wait_until(lambda: _with_an_answer(clients, 6))
    gate.set()

    assert [client.read_reply() for client in answered] == [replies.LOGIN_LATER] * 6
    others = [client for client in clients if client not in answered]
    assert [client.read_reply() for client in others] == [replies.WRONG_LOGIN] * 4


def _with_an_answer(clients: list[Client], count: int) -> list[Client]:
    """The clients that have been answered, once they are so many."""
    readable, _, _ = select.select([client.socket for client in clients], [], [], 0)
    answered = [client for client in clients if client.socket in readable]
    return answered if len(answered) >= count else []


class Threads(Shelf):
    """Stores in a thread, as all do that write files."""

    async def store(self, mail: NewMail, spool: BinaryIO | None) -> Kept:
        await asyncio.to_thread(str)
        return await super().store(mail, spool)


def test_guesses_do_not_keep_mail_from_being_stored(
    gate: threading.Event, users: None, protected: Connect, tls: ssl.SSLContext
) -> None:
    with receiving(Threads(), kind=SubmissionDialogue, tls=tls) as receiver:
        sender = protected(receiver)
        assert sender.ask(_plain(b"anna", b"correct horse")) == replies.LOGGED_IN
        guessers = [protected(receiver) for _ in range(40)]
        for guesser in guessers:
            guesser.send(_plain(b"anna", b"wrong") + b"\r\n")
        sessions = receiver.listener.sessions._open
        wait_until(lambda: all(dialogue.commands == 4 for dialogue in list(sessions)))

        assert deliver(sender).startswith(b"250")

        gate.set()
        assert {guesser.read_reply() for guesser in guessers} == {replies.WRONG_LOGIN}
