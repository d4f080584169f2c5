"""Byte sequences that broke other servers, each with what must happen, at three segmentations.

The file is read from `$MAIL_WIRE` (default `../shared/wire` beside the project's root).
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mailapp.receiver.tls import server_context
from tests.integration.conftest import Certificate
from tests.integration.receiving import Client, Receiver, Shelf, our_settings, receiving

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("MAIL_WIRE", ROOT.parent / "shared" / "wire"))

Vector = dict[str, Any]


def _vectors(*groups: str) -> list[Any]:
    path = FOLDER / "vectors.json"
    if not path.exists():
        reason = f"there are no vectors in {FOLDER}"
        return [pytest.param({}, marks=pytest.mark.skip(reason=reason))]
    variants = json.loads(path.read_text())["variants"]
    return [pytest.param(each, id=each["id"]) for each in variants if each["group"] in groups]


def _bytes(vector: Vector) -> bytes:
    if pattern := vector.get("pattern"):
        return bytes.fromhex(pattern["hex"]) * pattern["times"]
    return bytes.fromhex(vector["bytes_hex"])


def _at_once(data: bytes) -> list[bytes]:
    return [data]


def _byte_by_byte(data: bytes) -> list[bytes]:
    if len(data) > 10_000:
        return [data[start : start + 1000] for start in range(0, len(data), 1000)]
    return [data[at : at + 1] for at in range(len(data))]


def _before_the_dot(data: bytes) -> list[bytes]:
    dot = max(data.find(b"."), 0)
    return [piece for piece in (data[:dot], data[dot:]) if piece]


Cut = Callable[[bytes], list[bytes]]


@pytest.fixture(params=[_at_once, _byte_by_byte, _before_the_dot], ids=lambda cut: cut.__name__)
def cut(request: pytest.FixtureRequest) -> Cut:
    chosen: Cut = request.param
    return chosen


@pytest.fixture(scope="module")
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture(scope="module")
def shared_receiver(shelf: Shelf, certificate: Certificate) -> Iterator[Receiver]:
    settings = our_settings(INLINE_SIZE=500)
    with receiving(shelf, settings=settings, tls=server_context(certificate.chain, "")) as receiver:
        yield receiver


@pytest.fixture
def receiver(shared_receiver: Receiver, shelf: Shelf) -> Receiver:
    shelf.mails.clear()
    return shared_receiver


@pytest.fixture
def client(receiver: Receiver) -> Iterator[Client]:
    with receiver.greeted() as client:
        yield client


def _begin_data(client: Client) -> None:
    client.send(b"MAIL FROM:<reader@client.test>\r\nRCPT TO:<you@example.com>\r\nDATA\r\n")
    assert [client.read_reply()[:3] for _ in range(3)] == [b"250", b"250", b"354"]


SMUGGLED = (
    b"MAIL FROM:<smuggler@client.test>\r\nRCPT TO:<you@example.net>\r\nDATA\r\nsmuggled\r\n.\r\n"
)


@pytest.mark.parametrize("vector", _vectors("eod", "eod-start", "eod-pyline"))
def test_content_ends_at_its_true_end_and_nowhere_else(
    vector: Vector, cut: Cut, client: Client, shelf: Shelf
) -> None:
    before = b"" if vector["group"] == "eod-start" else b"Subject: Hello\r\n\r\nbody"
    content = before + _bytes(vector)
    _begin_data(client)

    client.send_in(cut(content + SMUGGLED))
    first = client.read_reply()
    client.send(b"QUIT\r\n")
    others = client.read_replies()

    bare = content.replace(b"\r\n", b"")
    malformed = any(octet in bare for octet in (b"\r", b"\n", b"\0"))
    assert first.startswith(b"550 5.6.11" if malformed else b"250 2.")
    if vector["expect"] == "not-eod":
        assert len(others) == 1, "what was content ran as commands"
        assert [mail.sender for mail in shelf.mails] == ["reader@client.test"] * (not malformed)
        assert all(mail.raw == content + SMUGGLED[:-3] for mail in shelf.mails)
    else:
        assert others[0].startswith(b"250 2.1.0")


@pytest.mark.parametrize("vector", _vectors("eod-split"))
def test_the_end_is_found_wherever_it_is_cut(
    vector: Vector, client: Client, receiver: Receiver, shelf: Shelf
) -> None:
    ending = _bytes(vector)
    ending = ending if ending.endswith(b".\r\n") else ending + b"\r\n.\r\n"
    for at in range(max(len(ending) - 6, 1), len(ending)):
        for length in (1, *range(495, 506)):  # around INLINE_SIZE, where content is cut
            _begin_data(client)
            client.send_in([b"x" * length + ending[:at], ending[at:]])

            assert client.read_reply().startswith(b"250 2.6.0")
            assert shelf.mails.pop().size == length + len(ending) - 3


@pytest.mark.parametrize("vector", _vectors("dot"))
def test_dots_that_were_doubled_for_the_wire_are_single_again(
    vector: Vector, cut: Cut, client: Client, shelf: Shelf
) -> None:
    line = _bytes(vector)
    unstuffed = b"" if line == b".\r\n" else line[1:]
    _begin_data(client)

    client.send_in(cut(b"a\r\n" + line + b".\r\n" * bool(unstuffed)))

    assert client.read_reply().startswith(b"250 2.6.0")
    assert shelf.mails[0].raw == b"a\r\n" + unstuffed


@pytest.mark.parametrize("vector", _vectors("command"))
def test_commands(vector: Vector, cut: Cut, receiver: Receiver, shelf: Shelf) -> None:
    early = vector["id"].startswith("early")
    with receiver.connect() if early else receiver.greeted() as client:
        if vector["id"] == "pipelined-eod-quit-close":
            _begin_data(client)

        _send_what_is_taken(client, cut(_bytes(vector)))
        client.half_close()
        given = client.read_replies()

    if vector["expect"] == "accept":
        assert all(reply[:1] in b"23" for reply in given)
    elif vector["expect"] == "disconnect":
        assert given[-1][:3] in {b"421", b"554"}
        assert len(given) <= 101
    else:
        assert [reply[:1] for reply in given] == [b"2" if vector["id"] == "vrfy" else b"5"]
        assert b"root" not in given[0]


def _send_what_is_taken(client: Client, pieces: list[bytes]) -> None:
    try:
        client.send_in(pieces)
    except ConnectionError:
        return


@pytest.mark.parametrize("vector", _vectors("starttls"))
def test_nothing_said_before_tls_counts_within(
    vector: Vector, receiver: Receiver, shelf: Shelf, certificate: Certificate
) -> None:
    with receiver.greeted() as client:
        client.send(_bytes(vector))
        reply = client.read_reply()
        if not reply.startswith(b"220"):
            assert reply.startswith(b"50")
            client.half_close()
            assert client.is_closed()
            return
        context = ssl.create_default_context(cafile=certificate.authority)
        client.socket = context.wrap_socket(client.socket, server_hostname="localhost")

        assert client.ask(b"MAIL FROM:<a@client.test>").startswith(b"503 5.5.1")
        assert b"STARTTLS" not in client.ask(b"EHLO client.test")
        assert client.ask(b"STARTTLS").startswith(b"503 5.5.1")


@pytest.mark.parametrize("command", [b"MAIL FROM:", b"RCPT TO:"])
@pytest.mark.parametrize("utf8", [b"", b" SMTPUTF8"])
@pytest.mark.parametrize("vector", _vectors("address"))
def test_addresses(
    vector: Vector, command: bytes, utf8: bytes, cut: Cut, client: Client, shelf: Shelf
) -> None:
    sending = command == b"MAIL FROM:"
    argument = _bytes(vector)
    if sending:
        line = command + argument + utf8
    else:
        client.ask(b"MAIL FROM:<reader@client.test>" + utf8)
        line = command + argument

    client.send_in(cut(line + b"\r\n"))
    reply = client.read_reply()

    assert reply[:3] in _allowed(vector, sending=sending, utf8=bool(utf8)), reply
    assert reply[4:5] == reply[:1], "a reply without an enhanced status code"


def _allowed(vector: Vector, *, sending: bool, utf8: bool) -> set[bytes]:
    ok, refused, relay = {b"250"}, {b"500", b"501", b"553", b"555"}, {b"550"}
    ours = b"@example.com>" in _bytes(vector).lower() and b"@victim" not in _bytes(vector)
    allowed = {
        "ok": ok,
        "ok-null": ok if sending else {b"501"},
        "refuse": refused,
        "not-relay": ok if sending or ours else relay,
        "escaped": ok,
        "literal": ok,
        "553-or-literal": ok | refused,
        "ok-or-553": ok | refused,
        "ok-or-501": ok | refused,
        "refuse-or-ok": ok | refused,
        "553-unless-smtputf8": ok if utf8 else {b"553"},
        "distinct": ok if utf8 else {b"553"},
        "idna": ok if utf8 else {b"553"},
    }
    return allowed[vector["expect"]]
