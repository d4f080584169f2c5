"""A catcher that does wrong on purpose, and what a relay makes of it."""

from __future__ import annotations

import contextlib
import mailbox
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailapp.models import Status
from mailapp.receiver import replies
from mailapp.receiver.catcher import Catcher
from mailapp.receiver.faults import STAGES, Fault, FaultyListener
from tests.integration.receiving import Client, Receiver, receiving
from tests.integration.relaying import settled

DIALOGUE = {
    "connect": b"",
    "helo": b"EHLO client.test",
    "mail": b"MAIL FROM:<you@example.com>",
    "rcpt": b"RCPT TO:<reader@client.test>",
    "data": b"DATA",
    "dot": b"Subject: Hello\r\n\r\nHello.\r\n.",
}


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    return tmp_path / "queue"


@pytest.fixture
def faulty(queue: Path) -> Iterator[Callable[..., Receiver]]:
    """Run a catcher with faults: `faulty("rcpt:451")`."""
    with contextlib.ExitStack() as stack:

        def start(*faults: str) -> Receiver:
            return stack.enter_context(
                receiving(
                    Catcher(str(queue)),
                    listener=FaultyListener,
                    faults=[Fault.parse(fault) for fault in faults],
                )
            )

        yield start


def kept(queue: Path) -> int:
    return len(mailbox.Maildir(queue, create=False))


def replies_until(client: Client, stage: str) -> list[bytes]:
    """Go through the dialogue to the end of a stage; return the first word of each reply."""
    words = []
    for name, said in DIALOGUE.items():
        reply = client.ask(said) if said else client.read_reply()
        words.append(reply.split()[0] if reply else b"")
        if name == stage:
            break
    return words


RIGHT = [b"220", b"250", b"250", b"250", b"354", b"250"]


@pytest.mark.parametrize("stage", STAGES)
def test_refusal_is_said_at_its_stage_and_not_before(faulty, queue, stage):
    at = STAGES.index(stage)

    with faulty(f"{stage}:451").connect() as client:
        said = replies_until(client, stage)

    assert [word[:3] for word in said] == [*RIGHT[:at], b"451"]
    assert kept(queue) == 0


@pytest.mark.parametrize("stage", STAGES)
def test_connection_is_dropped_at_its_stage_and_a_mail_that_was_whole_is_kept(faulty, queue, stage):
    at = STAGES.index(stage)

    receiver = faulty(f"{stage}:drop")
    with receiver.connect() as client:
        said = replies_until(client, stage)
    receiver.stop()

    assert [word[:3] for word in said] == [*RIGHT[:at], b""]
    assert kept(queue) == (stage == "dot")


def test_answer_that_is_none_is_said(faulty):
    with faulty("mail:garbage").connect() as client:
        assert replies_until(client, "mail")[-1] == b"Segmentation"


def test_farewell_ends_the_session(faulty):
    with faulty("mail:421").connect() as client:
        replies_until(client, "mail")

        assert client.read_reply() == b""


def test_silence_lasts_until_the_client_has_gone_and_the_mail_is_kept(faulty, queue):
    receiver = faulty("dot:silence")
    with receiver.connect() as client:
        replies_until(client, "data")
        client.send(DIALOGUE["dot"] + b"\r\n")
        client.socket.shutdown(socket.SHUT_WR)

        assert client.read_reply() == b""
    receiver.stop()

    assert kept(queue) == 1


def test_slow_server_answers_what_it_would_have(faulty, queue):
    with faulty("slow:0.001").connect() as client:
        assert [word[:3] for word in replies_until(client, "dot")] == RIGHT

    assert kept(queue) == 1


def test_fault_with_a_chance_happens_now_and_then(faulty):
    with faulty("rcpt:451:50%").greeted() as client:
        client.ask(DIALOGUE["mail"])

        said = {client.ask(DIALOGUE["rcpt"])[:3] for _ in range(64)}

    assert said == {b"250", b"451"}


def test_faults_add_up(faulty):
    with faulty("mail:slow:0.001", "rcpt:550", "dot:drop").connect() as client:
        assert replies_until(client, "rcpt")[-1] == b"550"


def test_nothing_goes_wrong_without_faults(faulty, queue):
    with faulty().greeted() as client:
        assert client.ask(DIALOGUE["mail"]) == replies.SENDER_OK


@pytest.mark.parametrize(
    "text",
    [
        *("", "rcpt", "rcpt:", "451", "drop", "lunch:451", "rcpt:200", "rcpt:600", "rcpt:4x1"),
        *("rcpt:451:10", "rcpt:451:0%", "rcpt:451:101%", "rcpt:451:x%", "rcpt:451:nan%", "rcpt:5%"),
        *("dot:slow", "dot:slow:", "dot:slow:-1", "dot:slow:inf", "slow:nan", "dot:drop:1:2"),
    ],
)
def test_what_is_no_fault_is_said_so(text):
    with pytest.raises(ValueError, match=r"is not|begins with no stage|no number"):
        Fault.parse(text)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("fault", "status", "copies"),
    [
        ("rcpt:451", Status.DEFERRED, 0),
        ("rcpt:550", Status.FAILED, 0),
        ("dot:552", Status.FAILED, 0),
        ("connect:421", Status.DEFERRED, 0),
        ("dot:drop", Status.DEFERRED, 1),
    ],
)
def test_relay_meets_a_fault(faulty, queue, relay, post, fault, status, copies):
    receiver = faulty(fault)
    sent = post("reader@client.test", sender="")

    relay(f"127.0.0.1:{receiver.port}", RELAY_REST_SECONDS=[3600])

    assert settled(sent).status == status
    assert kept(queue) == copies
