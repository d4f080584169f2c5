"""Whatever a mail of ours holds, it reaches a strict server and a lax one as one message."""

from __future__ import annotations

import contextlib
import email
import email.policy
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mailapp.models import OUTGOING, Delivery, Message, Status
from mailapp.routing import route, stateless
from tests.integration.relaying import running_relay
from tests.integration.sinks import LAX, STRICT, Sink, sink
from tests.plain_reader import BARE
from tests.vectors import REASON, octets, vectors
from tests.waiting import DEADLINE, wait_until

# What goes over the wire does not depend on the database.
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.any_database]

OURS = {
    "CRLF.CRLF": b"\r\n.\r\n",
    "LF.LF": b"\n.\n",
    "CR.CR": b"\r.\r",
    "LF.CRLF": b"\n.\r\n",
    "CRLF.LF": b"\r\n.\n",
    "CRLF.CR": b"\r\n.\r",
    "CRLF.CRCRLF": b"\r\n.\r\r\n",
    "CRLF NUL.CRLF": b"\r\n\0.\r\n",
    "CRLF.NUL CRLF": b"\r\n.\0\r\n",
    "CRLF..CRLF": b"\r\n..\r\n",
    "NEL.NEL": "\x85.\x85".encode(),
    "a long line": b"\r\n" + b"x" * 2000 + b"\n.\n",
}
THEIRS = {
    vector["id"]: octets(vector)
    for vector in vectors("eod", "eod-start", "eod-pyline", "eod-split", "dot")
}
SMUGGLED = (
    b"MAIL FROM:<smuggler@client.test>\r\nRCPT TO:<victim@client.test>\r\nDATA\r\n"
    b"Subject: Smuggled\r\n\r\nsmuggled\r\n.\r\nQUIT\r\n"
)


@pytest.fixture(
    params=[
        pytest.param(OURS, id="ours"),
        pytest.param(THEIRS, id="theirs", marks=pytest.mark.skipif(not THEIRS, reason=REASON)),
    ]
)
def sequences(request: pytest.FixtureRequest) -> dict[str, bytes]:
    chosen: dict[str, bytes] = request.param
    return chosen


@pytest.fixture(params=[STRICT, LAX], ids=["strict", "lax"])
def server(request: pytest.FixtureRequest) -> Iterator[Sink]:
    with sink(request.param) as server:
        yield server


@pytest.fixture
def relay_all(server: Sink, settings: Any) -> Callable[[], None]:
    """Run a relay until every delivery was tried and nothing more is due."""

    def run() -> None:
        settings.MAIL = {
            **settings.MAIL,
            "RELAY": server.address,
            "RELAY_CONNECTIONS": 1,
            "RELAY_TIMEOUT": DEADLINE,
            "POLL_SECONDS": 0.05,
        }
        due = Delivery.objects.filter(queue=OUTGOING, status__in=["queued", "claimed"])
        with running_relay():
            wait_until(lambda: not due.exists())

    return run


def contents(sequences: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """For each sequence a recipient of its own, and content which goes on as a session does."""
    for number, sequence in enumerate(sequences.values()):
        yield f"r{number}@client.test", b"before" + sequence + SMUGGLED
        yield f"s{number}@client.test", sequence + SMUGGLED  # at the beginning of the content


def assert_each_came_once(server: Sink, sequences: dict[str, bytes], *, once: set[str]) -> None:
    """Each mail is there once, and no bare line end or NUL is anywhere on the wire."""
    names = dict(enumerate(sequences))
    came = Counter(recipient.decode() for recipient, _ in server.mails)
    wrong = once.symmetric_difference(came) | {each for each, times in came.items() if times > 1}
    assert not wrong, {each: names.get(int(re.sub(r"\D", "", each) or -1)) for each in wrong}
    assert not [BARE.search(wire) for wire in server.wire if BARE.search(wire)]


def test_body_of_an_answer_reaches_a_server_as_one_message(
    server: Sink, sequences, relay_all, handle, templates, message, work
) -> None:
    texts = {recipient: _text(content) for recipient, content in contents(sequences)}
    templates(
        **{
            f"{recipient}.msg": f"{{% block text %}}{text}{{% endblock %}}"
            for recipient, text in texts.items()
        }
    )

    @route("(desk)@(host)", desk="desk")
    @stateless
    def ANSWER(message: Any, desk: str, host: str) -> None:
        message.respond(f"{message.sender}.msg")

    handle(ANSWER)
    for recipient in texts:
        message(sender=recipient, recipients=["desk@localhost"], raw=b"Subject: Hello\r\n\r\n")
    work()

    relay_all()

    assert_each_came_once(server, sequences, once=set(texts))
    for recipient, content in server.mails:
        assert _lines(_body(content)) == _lines(texts[recipient.decode()]), recipient


def test_mail_that_is_forwarded_reaches_a_server_as_one_message(
    server: Sink, sequences, relay_all, handle, message, work
) -> None:
    raws = {
        recipient: (b"" if recipient.startswith("s") else b"Subject: Hello\r\n\r\n") + content
        for recipient, content in contents(sequences)
    }

    @route("(desk)@(host)", desk="desk")
    @stateless
    def FORWARD(message: Any, desk: str, host: str) -> None:
        message.forward(message.sender)

    handle(FORWARD)
    for recipient, raw in raws.items():
        message(sender=recipient, recipients=["desk@localhost"], raw=raw)
    work()

    relay_all()

    assert_each_came_once(server, sequences, once=set(raws))
    for recipient, content in server.mails:
        whole = re.sub(rb"\r\n|\r|\n", b"\r\n", raws[recipient.decode()].replace(b"\0", b""))
        assert _undotted(content).endswith(whole), recipient


def test_report_of_a_failure_reaches_a_server_as_one_message(
    server: Sink, sequences, relay_all, message
) -> None:
    for recipient, content in contents(sequences):
        head = b"Subject: Hello\r\nX-Odd: " if recipient.startswith("r") else b""
        message(
            raw=head + content + b"\r\n\r\n" + content,
            sender=recipient,
            recipients=[f"nobody-{recipient}"],
            queue=OUTGOING,
            protocol="",
        )
    told = {recipient for recipient, _ in contents(sequences)}

    relay_all()

    assert Message.objects.filter(sender="").count() == len(told)
    assert_each_came_once(server, sequences, once=told)
    failed = Delivery.objects.filter(recipient__startswith="nobody")
    assert set(failed.values_list("status", flat=True)) == {Status.FAILED}
    for _, content in server.mails:
        report = email.message_from_bytes(_undotted(content), policy=email.policy.default)
        kinds = [part.get_content_type() for part in report.iter_parts()]
        assert kinds == ["text/plain", "message/delivery-status", "text/rfc822-headers"]


def _text(content: bytes) -> str:
    with contextlib.suppress(UnicodeDecodeError):
        return content.decode()
    return content.decode("latin-1")


def _undotted(content: bytes) -> bytes:
    return re.sub(rb"^\.", b"", content, flags=re.MULTILINE)


def _body(content: bytes) -> str:
    parsed = email.message_from_bytes(_undotted(content), policy=email.policy.default)
    body = parsed.get_content()
    assert isinstance(body, str)
    return body


def _lines(text: str) -> list[str]:
    return re.split(r"\r\n|\r|\n", text.replace("\0", "").strip("\r\n"))
