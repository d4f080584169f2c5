"""What the relay sends to: by TLS, by LMTP, after AUTH, and to the next when one is in trouble.

Where a smart host is tried that goes wrong is listed in test_relay.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from mailapp.models import Attempt, Delivery, Process, Status
from tests.integration.conftest import OFFERS, RAW
from tests.integration.relaying import settled, statuses, tried
from tests.integration.scripted_server import (
    CUT,
    DRIBBLE,
    DROP,
    ENDLESS,
    SILENCE,
    STALL,
    ScriptedServer,
    scripted_server,
)
from tests.waiting import DEADLINE, wait_until

if TYPE_CHECKING:
    from mailapp.models import Message

# How it is spoken to does not depend on the database.
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.any_database]

TLS_OFFERS = "250-mx.test\r\n250-SIZE 1000000\r\n250-AUTH PLAIN LOGIN\r\n250 STARTTLS"
PASSWORD = "geheim"
THREE = ["a@client.test", "b@client.test", "c@client.test"]
LATE = datetime(2020, 1, 1, tzinfo=UTC)


class Authorities:
    """One authority that the relay trusts, and one that it does not."""

    def __init__(self, folder: Path) -> None:
        self._trusted, self._unknown = trustme.CA(), trustme.CA()
        self.file = str(folder / "authority.pem")
        self._trusted.cert_pem.write_to_path(self.file)

    def context(self, fault: str = "") -> ssl.SSLContext:
        """Make what a server for 127.0.0.1 needs, with a certificate that has this fault."""
        authority = self._unknown if fault == "of an unknown authority" else self._trusted
        name = "192.0.2.1" if fault == "for another name" else "127.0.0.1"
        issued = authority.issue_cert(
            name, not_before=LATE, not_after=LATE if fault == "expired" else None
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issued.configure_cert(context)
        return context


FAULTS = {
    "of an unknown authority": "unable to get local issuer certificate",
    "for another name": "IP address mismatch",
    "expired": "certificate has expired",
}


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    return Authorities(tmp_path_factory.mktemp("authorities"))


@pytest.fixture
def serve_tls(authorities: Authorities) -> Iterator[Callable[..., ScriptedServer]]:
    """Start a smart host with STARTTLS, or TLS at once: `serve_tls("expired", scheme="smtps")`."""
    with contextlib.ExitStack() as stack:

        def start(
            fault: str = "", *, scheme: str = "smtp", **script: str | list[str]
        ) -> ScriptedServer:
            return stack.enter_context(
                scripted_server(
                    {"EHLO": TLS_OFFERS, "RSET": "250 Flushed", **script},
                    tls=authorities.context(fault),
                    implicit_tls=scheme == "smtps",
                )
            )

        yield start


@pytest.fixture
def relay_tls(relay: Callable[..., Any], authorities: Authorities) -> Callable[..., Any]:
    """Run a relay that trusts the one authority: `relay_tls("smtps://127.0.0.1:465")`."""

    def start(*urls: str, **changes: Any) -> Any:
        return relay(list(urls), RELAY_CA_FILE=authorities.file, **changes)

    return start


@pytest.fixture
def nobody() -> Iterator[str]:
    """A place where nobody listens."""
    with socket.socket() as reserved:  # bound, so that nobody else listens there
        reserved.bind(("127.0.0.1", 0))
        yield "127.0.0.1:{1}".format(*reserved.getsockname())


def not_let_in(message: Message) -> str:
    """Why the only delivery of a mail was put off before it was tried with the smart host."""
    delivery = settled(message)
    assert (delivery.status, delivery.reply) == (Status.DEFERRED, "451 4.4.1 Relay not reachable")
    return Attempt.objects.get().error


# TLS


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_mail_is_sent_encrypted_to_a_smart_host_that_proves_its_name(
    serve_tls, relay_tls, post, scheme
):
    server = serve_tls(scheme=scheme)
    sent = post("reader@client.test")

    relay_tls(f"{scheme}://{server.address}?tls=verified")

    assert settled(sent).status == Status.DONE
    assert server.messages == [RAW]
    encrypted = {"smtp": ["EHLO", "STARTTLS", "EHLO"], "smtps": ["EHLO"]}[scheme]
    assert server.verbs[:-3] == [*encrypted]


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
@pytest.mark.parametrize("fault", FAULTS)
def test_smart_host_with_a_wrong_certificate_gets_neither_mail_nor_password(
    serve_tls, relay_tls, post, scheme, fault
):
    server = serve_tls(fault, scheme=scheme)
    kept = post("reader@client.test")

    relay_tls(
        f"{scheme}://user:{PASSWORD}@{server.address}?tls=verified", RELAY_REST_SECONDS=[DEADLINE]
    )

    assert FAULTS[fault] in not_let_in(kept)
    assert set(server.verbs) <= {"EHLO", "STARTTLS"}


@pytest.mark.parametrize("fault", FAULTS)
def test_certificate_does_not_matter_where_the_settings_say_so(serve_tls, relay_tls, post, fault):
    server = serve_tls(fault)
    sent = post("reader@client.test")

    relay_tls(f"smtp://{server.address}?tls=unverified")

    assert settled(sent).status == Status.DONE
    assert "STARTTLS" in server.verbs


@pytest.mark.parametrize(
    "script",
    [
        {"EHLO": OFFERS},
        {"STARTTLS": "454 4.7.0 Not now"},
        {"STARTTLS": DROP},
        {"STARTTLS": SILENCE},
    ],
)
def test_mail_does_not_go_in_the_clear_when_there_is_no_tls(serve_tls, relay_tls, post, script):
    server = serve_tls(**script)
    kept = post("reader@client.test")

    relay_tls(
        f"smtp://{server.address}?tls=verified",
        RELAY_TIMEOUT=0.5 if SILENCE in script.values() else DEADLINE,
        RELAY_REST_SECONDS=[DEADLINE],
    )

    assert server.address in not_let_in(kept)
    assert set(server.verbs) <= {"EHLO", "STARTTLS"}


def test_what_was_said_in_the_clear_counts_for_nothing_under_tls(serve_tls, relay_tls, post):
    server = serve_tls(STARTTLS="220 Go ahead\r\n250-mx.test\r\n250 8BITMIME")
    sent = post("reader@client.test")

    relay_tls(f"smtp://{server.address}?tls=verified")

    assert settled(sent).status == Status.DONE
    assert server.commands[3] == f"MAIL FROM:<you@example.com> SIZE={len(RAW)}"


# AUTH


def secrets(server: ScriptedServer) -> list[str]:
    """What the login was on the wire, and the password."""
    logins = [command.split()[-1] for command in server.commands if command.startswith("AUTH")]
    return [PASSWORD, base64.b64encode(PASSWORD.encode()).decode(), *logins]


def everything_shown(caplog: pytest.LogCaptureFixture) -> str:
    """All that an operator could read."""
    shown = [*Delivery.objects.values_list("reply", flat=True)]
    shown += [text for row in Attempt.objects.values_list("reply", "error") for text in row]
    return "\n".join([*shown, *Process.objects.values_list("activity", flat=True), caplog.text])


def test_user_logs_in_under_tls(serve_tls, relay_tls, post):
    server = serve_tls()
    sent = post("reader@client.test")

    relay_tls(f"smtp://us%40er@{server.address}?tls=verified", RELAY_PASSWORD=PASSWORD)

    assert settled(sent).status == Status.DONE
    login = base64.b64encode(f"\0us@er\0{PASSWORD}".encode()).decode()
    assert f"AUTH PLAIN {login}" in server.commands
    assert server.verbs.index("STARTTLS") < server.verbs.index("AUTH")


@pytest.mark.parametrize(
    "reply",
    ["535 5.7.8 Who are you? {}", "454 4.7.0 Not now {}", "500 What is {}", DROP, SILENCE, "334 %"],
)
def test_smart_host_that_refuses_the_login_gets_no_mail_and_nobody_reads_the_password(
    serve_tls, relay_tls, post, caplog, reply
):
    login = base64.b64encode(f"\0user\0{PASSWORD}".encode()).decode()
    server = serve_tls(AUTH=reply.format(f"{login} {PASSWORD}"))
    kept = post("reader@client.test")

    relay_tls(
        f"smtp://user:{PASSWORD}@{server.address}?tls=verified",
        RELAY_TIMEOUT=0.5 if reply == SILENCE else DEADLINE,
        RELAY_REST_SECONDS=[DEADLINE],
    )

    assert f"user@{server.address}" in not_let_in(kept)
    assert "MAIL" not in server.verbs
    wait_until(lambda: "left alone" in caplog.text)
    assert [each for each in secrets(server) if each in everything_shown(caplog)] == []


# LMTP


@pytest.fixture(params=["tcp", "unix"])
def serve_lmtp(request, tmp_path) -> Iterator[Callable[..., tuple[ScriptedServer, str]]]:
    """Start a server of LMTP and return it with its URL."""
    with contextlib.ExitStack() as stack:

        def start(**script: str | list[str]) -> tuple[ScriptedServer, str]:
            named = {{"dot": "."}.get(verb, verb): reply for verb, reply in script.items()}
            path = tmp_path / "lmtp" if request.param == "unix" else None
            server = stack.enter_context(
                scripted_server({"LHLO": OFFERS, "RSET": "250 Flushed", **named}, path=path)
            )
            return server, f"lmtp://{server.address}"

        yield start


def test_each_recipient_has_the_reply_that_lmtp_gives_for_it(serve_lmtp, relay, post):
    server, url = serve_lmtp(dot=["250 2.0.0 Ok", "550 5.2.2 Full", "451 4.2.0 Busy", "250 Ok"])
    post(*THREE, sender="")

    relay(url)

    assert tried() == dict(zip(THREE, [Status.DONE, Status.FAILED, Status.DEFERRED], strict=True))
    assert server.messages == [RAW]
    assert [verb for verb in server.verbs if verb in {"EHLO", "LHLO"}] == ["LHLO"]
    again = post("d@client.test")
    assert settled(again).status == Status.DONE
    assert Counter(server.verbs)["LHLO"] == 1


def test_refused_recipient_has_no_reply_to_the_mail_in_lmtp(serve_lmtp, relay, post):
    server, url = serve_lmtp(RCPT=["250 Ok", "550 5.1.1 Unknown", "250 Ok"], dot=["250 A", "250 C"])
    post(*THREE, sender="")

    relay(url)

    assert tried() == dict(zip(THREE, [Status.DONE, Status.FAILED, Status.DONE], strict=True))
    replies = [row.reply for row in Delivery.objects.order_by("recipient")]
    assert replies == ["250 A", "550 5.1.1 Unknown", "250 C"]
    assert server.messages == [RAW]


def test_what_lmtp_took_before_it_broke_off_is_not_sent_again(serve_lmtp, relay, post):
    server, url = serve_lmtp(dot=["250 2.0.0 Ok", DROP, "250 2.0.0 Ok"])
    post(*THREE, sender="")

    relay(url, RELAY_RETRY_SECONDS=[0.05])

    wait_until(lambda: set(statuses().values()) == {Status.DONE})
    assert Counter(command for command in server.commands if command.startswith("RCPT")) == {
        "RCPT TO:<a@client.test>": 1,
        "RCPT TO:<b@client.test>": 2,
        "RCPT TO:<c@client.test>": 2,
    }
    assert Attempt.objects.filter(reply__startswith="451 4.4.2").count() == 2


# Replies without an end, and mail that is broken off


@pytest.mark.parametrize("stage", ["banner", "EHLO", "MAIL", "RCPT", "DATA", "dot"])
@pytest.mark.parametrize("reply", [ENDLESS, DRIBBLE])
def test_reply_that_has_no_end_or_comes_too_slowly_defers_the_mail(
    serve, relay, post, stage, reply
):
    server = serve(**{stage: reply})
    deferred = post("reader@client.test")

    relay(
        server.address,
        RELAY_TIMEOUT=DEADLINE if reply == ENDLESS else 0.05,
        RELAY_REST_SECONDS=[DEADLINE],
    )

    delivery = settled(deferred)
    assert delivery.status == Status.DEFERRED
    assert delivery.reply.startswith("451 4.4.1" if stage in {"banner", "EHLO"} else "451 4.4.2")


def test_mail_that_is_broken_off_in_the_middle_is_sent_again_whole_and_once(serve, relay, post):
    server = serve(DATA=[CUT, "354 Go ahead"])
    raw = RAW + b"0123456789abcde\r\n" * 500_000
    sent = post("reader@client.test", raw=raw)

    relay(server.address, RELAY_RETRY_SECONDS=[0.05])

    wait_until(lambda: sent.deliveries.filter(status=Status.DONE).exists())
    assert [each == raw for each in server.messages] == [True]
    assert [each.outcome for each in Attempt.objects.all()] == [Status.DEFERRED, Status.DONE]


def test_smart_host_that_reads_no_more_in_the_middle_of_a_mail_defers_it(serve, relay, post):
    server = serve(DATA=STALL)
    deferred = post("reader@client.test", raw=RAW + b"0123456789abcde\r\n" * 2_000_000)

    relay(server.address, RELAY_TIMEOUT=0.5, RELAY_REST_SECONDS=[DEADLINE])

    assert settled(deferred).reply == "451 4.4.2 Connection with the relay broken"
    server.go_on.set()


# Several smart hosts


def test_next_smart_host_gets_the_mail_when_nobody_listens_at_the_first(
    serve, relay, post, nobody, caplog
):
    second = serve()
    for recipient in THREE:
        post(recipient)

    relay([nobody, second.address], RELAY_REST_SECONDS=[DEADLINE])

    assert set(tried().values()) == {Status.DONE}
    assert len(second.messages) == 3
    assert set(Attempt.objects.values_list("number", "outcome")) == {(1, Status.DONE)}
    alone = [record for record in caplog.records if "left alone" in record.message]
    assert [(record.levelno, nobody in record.message) for record in alone] == [
        (logging.WARNING, True)
    ]


@pytest.mark.parametrize(
    "script",
    [
        {"banner": "421 4.3.2 Busy"},
        {"banner": "554 5.7.1 Not you"},
        {"EHLO": "451 Later", "HELO": "451 Later"},
        {"AUTH": "535 5.7.8 Who are you?"},
        {"banner": DROP},
        {"banner": SILENCE},
    ],
)
def test_next_smart_host_gets_the_mail_when_the_first_does_not_let_us_in(
    serve, relay, post, script
):
    first, second = serve(**{"EHLO": TLS_OFFERS, **script}), serve()
    sent = post("reader@client.test")

    relay(
        [f"smtp://user:{PASSWORD}@{first.address}", second.address],
        RELAY_TIMEOUT=0.5 if SILENCE in script.values() else DEADLINE,
        RELAY_REST_SECONDS=[DEADLINE],
    )

    assert settled(sent).status == Status.DONE
    assert (len(first.messages), len(second.messages)) == (0, 1)


def test_mail_goes_to_the_first_again_when_it_is_well(serve, relay, post):
    first, second = serve(banner=["421 Busy", "220 mx.test"]), serve()
    relay([first.address, second.address])

    assert settled(post("a@client.test")).status == Status.DONE
    assert (len(first.messages), len(second.messages)) == (0, 1)
    wait_until(lambda: settled(post("b@client.test")) and first.messages)
    assert Counter(first.verbs)["EHLO"] == 1
    assert settled(post("c@client.test")).status == Status.DONE
    assert len(first.messages) == 2
    assert second.verbs[-1] == "QUIT"
    assert set(statuses().values()) == {Status.DONE}


def test_next_smart_host_gets_what_follows_when_the_first_breaks_off(serve, relay, post):
    first, second = serve(dot=DROP), serve()
    for recipient in THREE:
        post(recipient)

    relay([first.address, second.address], RELAY_REST_SECONDS=[DEADLINE])

    assert Counter(tried().values()) == {Status.DEFERRED: 1, Status.DONE: 2}
    assert (len(first.messages), len(second.messages)) == (1, 2)


def test_refusal_of_the_first_smart_host_is_not_asked_of_the_next(serve, relay, post):
    first, second = serve(RCPT="550 5.1.1 Unknown"), serve()
    failed = post("reader@client.test", sender="")

    relay([first.address, second.address])

    assert settled(failed).status == Status.FAILED
    assert second.commands == []


def test_mail_waits_while_all_smart_hosts_are_in_trouble(serve, relay, post, nobody):
    busy = serve(banner="421 Busy")
    for recipient in THREE:
        post(recipient)

    life = relay([nobody, busy.address], RELAY_REST_SECONDS=[DEADLINE])

    wait_until(lambda: Attempt.objects.exists())
    wait_until(lambda: not Delivery.objects.claimed().exists())
    assert Counter(statuses().values()) == {Status.DEFERRED: 1, Status.QUEUED: 2}
    assert busy.address in life.activity
