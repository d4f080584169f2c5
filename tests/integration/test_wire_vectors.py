"""Byte sequences that broke other servers, each with what must happen, at three segmentations.

They are read from `vectors.json` in the folder `MAIL_WIRE` (default `../shared/wire` beside the
project's root), whose README.md says where each group of them is put. What must be answered is
worked out from `group` and `expect`, and for content from what the plain reader reads.
"""

from __future__ import annotations

import contextlib
import re
import ssl
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn

import pytest

from mailapp.conf import MailSettings
from mailapp.receiver.tls import server_context
from tests.integration.conftest import Certificate
from tests.integration.receiving import HOSTS, Client, Receiver, Shelf, our_settings, receiving
from tests.plain_reader import is_malformed, read_content
from tests.vectors import Vector, octets, vector_parameters
from tests.waiting import DEADLINE

SMUGGLED = (
    b"MAIL FROM:<smuggler@client.test>\r\nRCPT TO:<you@example.net>\r\nDATA\r\nsmuggled\r\n.\r\n"
)
INLINE_SIZE = 500  # content over this is cut


def _at_once(data: bytes) -> list[bytes]:
    return [data]


def _byte_by_byte(data: bytes) -> list[bytes]:
    step = 1 if len(data) <= 10_000 else 1000
    return [data[start : start + step] for start in range(0, len(data), step)]


def _before_the_dot(data: bytes) -> list[bytes]:
    """Cut before each dot; where there is none, behind each line."""
    cuts = rb"(?=\.)" if b"." in data else rb"(?<=\n)"
    return [piece for piece in re.split(cuts, data) if piece]


class Trial(NamedTuple):
    """What the check of a group is given."""

    vector: Vector
    cut: Callable[[bytes], list[bytes]]
    receiver: Receiver
    shelf: Shelf
    authority: str

    @property
    def octets(self) -> bytes:
        return octets(self.vector)

    def send(self, client: Client, data: bytes) -> None:
        self.receiver.send_in(client, self.cut(data))

    def expects(self, known: set[str]) -> set[str]:
        """The alternatives of `expect`; fail for one that is not known here."""
        alternatives = set(self.vector["expect"].split("-or-"))
        for unknown in sorted(alternatives - known):
            self.cannot_tell("expect", unknown)
        return alternatives

    def cannot_tell(self, key: str, value: str) -> NoReturn:
        """Fail: neither pass nor refuse what nobody taught this test."""
        name = self.vector["id"]
        pytest.fail(f"This test does not know the {key} {value!r} of {name}: teach it", False)


@pytest.fixture(scope="module")
def settings() -> MailSettings:
    return our_settings(INLINE_SIZE=INLINE_SIZE)


@pytest.fixture(scope="module")
def shared_shelf() -> Shelf:
    return Shelf()


@pytest.fixture(scope="module")
def receiver(
    shared_shelf: Shelf, settings: MailSettings, certificate: Certificate
) -> Iterator[Receiver]:
    context = server_context(certificate.chain, "")
    with receiving(shared_shelf, settings=settings, tls=context) as receiver:
        yield receiver


@pytest.fixture
def shelf(shared_shelf: Shelf) -> Shelf:
    shared_shelf.mails.clear()
    return shared_shelf


@pytest.mark.parametrize("cut", [_at_once, _byte_by_byte, _before_the_dot])
@pytest.mark.parametrize("vector", vector_parameters())
def test_what_must_happen_happens(
    vector: Vector,
    cut: Callable[[bytes], list[bytes]],
    receiver: Receiver,
    shelf: Shelf,
    certificate: Certificate,
) -> None:
    trial = Trial(vector, cut, receiver, shelf, certificate.authority)

    check = CHECKS.get(vector["group"])

    if check is None:
        trial.cannot_tell("group", vector["group"])
    check(trial)


# Content


def _check_end(trial: Trial) -> None:
    """Put the bytes between text and a second transaction, or right behind the 354."""
    expected = trial.expects({"is-eod", "not-eod"})
    before = b"" if trial.vector["group"] == "eod-start" else b"Subject: Hello\r\n\r\nbody"
    content, rest = _read_plainly(before + trial.octets + SMUGGLED)
    assert expected == {"is-eod" if rest else "not-eod"}, "the plain reader finds another end"

    with trial.receiver.greeted() as client:
        _begin_data(client)
        trial.send(client, before + trial.octets + SMUGGLED)
        first = client.read_reply()
        client.send(b"QUIT\r\n")
        others = client.read_replies()

    assert first.startswith(_verdict(content))
    stored = [mail.raw for mail in trial.shelf.mails if mail.sender == "reader@client.test"]
    assert stored == [content] * (not is_malformed(content))
    if rest:
        assert others[0].startswith(b"250 2.1.0"), "what was pipelined is not obeyed"
    else:
        assert len(others) == 1, "what was content ran as commands"
        assert len(trial.shelf.mails) == len(stored)


def _check_split(trial: Trial) -> None:
    """Cut the end anywhere, and let it begin around the size at which content is cut."""
    trial.expects({"is-eod"})
    ending = trial.octets if b"\r\n.\r\n" in trial.octets else trial.octets + b"\r\n.\r\n"
    places = {trial.vector.get("split", 1), *range(max(len(ending) - 6, 1), len(ending))}

    with trial.receiver.greeted() as client:
        for at in sorted(places):
            for length in (1, *range(INLINE_SIZE - 5, INLINE_SIZE + 6)):
                stream = b"x" * length + ending
                _begin_data(client)
                client.send(stream[:length])
                trial.receiver.send_in(client, [ending[:at], *trial.cut(ending[at:])])

                assert client.read_reply().startswith(b"250 2.6.0")
                assert trial.shelf.mails.pop().raw == _read_plainly(stream)[0]


def _check_dots(trial: Trial) -> None:
    """Make the bytes a line of the content."""
    trial.expects({"unstuff"})
    content, rest = _read_plainly(b"a\r\n" + trial.octets + b".\r\n")

    with trial.receiver.greeted() as client:
        _begin_data(client)
        trial.send(client, b"a\r\n" + trial.octets + b".\r\n" * (not rest))

        assert client.read_reply().startswith(_verdict(content))

    assert [mail.raw for mail in trial.shelf.mails] == [content] * (not is_malformed(content))


def _read_plainly(stream: bytes) -> tuple[bytes, bytes]:
    read = read_content(stream)
    assert read is not None
    return read


def _verdict(content: bytes) -> bytes:
    return b"550 5.6.11" if is_malformed(content) else b"250 2.6.0"


def _begin_data(client: Client) -> None:
    client.send(b"MAIL FROM:<reader@client.test>\r\nRCPT TO:<you@example.com>\r\nDATA\r\n")
    assert [client.read_reply()[:3] for _ in range(3)] == [b"250", b"250", b"354"]


# Commands

FAREWELLS = {b"221", b"421", b"500", b"554"}


def _check_command(trial: Trial) -> None:
    """Say the bytes behind the banner, or before it, or as content where they end one."""
    expected = trial.expects({"accept", "refuse", "disconnect"})
    if trial.vector["id"].startswith("early"):
        patient = our_settings(GREET_SECONDS=DEADLINE)
        with receiving(trial.shelf, settings=patient) as receiver, receiver.connect() as client:
            given = _talk(trial._replace(receiver=receiver), client, half_close=False)
        assert [reply[:3] in FAREWELLS for reply in given] == [True]
        return
    commands = trial.octets.count(b"\n")
    with trial.receiver.greeted() as client:
        if b"\r\n.\r\n" in trial.octets and b"DATA" not in trial.octets.upper():
            _begin_data(client)
            commands = 1 + _read_plainly(trial.octets)[1].count(b"\n")
        given = _talk(trial, client, half_close=expected != {"disconnect"})

    limit = trial.receiver.listener.settings.MAX_JUNK_COMMANDS
    assert len(given) <= min(max(commands, 1), limit + 1)
    assert not any(word in reply for word in _arguments(trial.octets) for reply in given), "an echo"
    assert len(trial.shelf.mails) <= 1
    outcomes = {
        "accept": all(reply[:1] in b"23" for reply in given) and len(given) == commands,
        "refuse": _is_refused(given, commands) and not trial.shelf.mails,
        "disconnect": bool(given) and given[-1][:3] in FAREWELLS,
    }
    content = re.compile(rb"DATA\r\n.", re.IGNORECASE | re.DOTALL)
    if content.search(trial.octets) and not any(map(content.search, trial.cut(trial.octets))):
        return  # so cut, the content comes behind the 354
    assert any(outcomes[each] for each in expected), given


def _talk(trial: Trial, client: Client, *, half_close: bool) -> list[bytes]:
    """Say the bytes, and return all replies until the receiver hangs up."""
    with contextlib.suppress(ConnectionError):  # it has heard enough
        trial.send(client, trial.octets)
        if half_close:
            client.half_close()
    return client.read_replies()


def _arguments(commands: bytes) -> list[bytes]:
    arguments = (line.partition(b" ")[2] for line in commands.splitlines())
    return [argument for argument in arguments if len(argument) > 3]


def _is_refused(given: list[bytes], commands: int) -> bool:
    """True when it ends with a refusal; 252 is one to tell who is there."""
    if not given:
        return commands == 0  # a line without an end is no command
    return given[-1][:1] == b"5" or given[-1].startswith((b"252 ", b"421 "))


# STARTTLS


def _check_starttls(trial: Trial) -> None:
    """Say the bytes in the clear; of what follows STARTTLS nothing may count under TLS."""
    trial.expects({"no-reply-to-injected"})
    before = re.split(rb"(?im)^STARTTLS", trial.octets)[0].count(b"\n")

    with trial.receiver.greeted() as client:
        with contextlib.suppress(ConnectionError):
            trial.send(client, trial.octets)
        reply = [client.read_reply() for _ in range(before + 1)][-1]
        if reply.startswith(b"5"):
            client.half_close()
            others = client.read_replies()
            assert len(others) < max(trial.octets.count(b"\r\n") - before, 1)
        elif reply.startswith(b"220 2.0.0") and _begin_tls(client, trial.authority):
            assert client.ask(b"MAIL FROM:<a@client.test>").startswith(b"503 5.5.1")
            assert b"STARTTLS" not in client.ask(b"EHLO client.test")
            assert client.ask(b"RCPT TO:<you@example.com>").startswith(b"503 5.5.1")
            assert client.ask(b"STARTTLS").startswith(b"503 5.5.1")
        else:
            assert trial.cut is not _at_once, "a client that pipelined in one write gets no TLS"

    assert not trial.shelf.mails


def _begin_tls(client: Client, authority: str) -> bool:
    """False when what came in the clear behind STARTTLS was taken for TLS, and ended it."""
    context = ssl.create_default_context(cafile=authority)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # ssl forgets a socket that was reset
        try:
            client.socket = context.wrap_socket(client.socket, server_hostname="localhost")
        except OSError:
            return False
    return client.socket.version() is not None  # None: it was reset before the handshake


# Addresses

SYNTAX = {b"500", b"501", b"553", b"555"}
UNLESS_UTF8 = "-unless-smtputf8"
_PATH = re.compile(rb'<((?:"(?:\\.|[^"\\])*"|[^>"])*)>')


def _check_address(trial: Trial) -> None:
    """Give the bytes to MAIL and to RCPT, with SMTPUTF8 and without."""
    argument = trial.octets
    for utf8 in (b"", b" SMTPUTF8")[: 1 if b"SMTPUTF8" in argument.upper() else 2]:
        for sending in (True, False):
            trial.shelf.mails.clear()
            with trial.receiver.greeted() as client:
                if sending:
                    trial.send(client, b"MAIL FROM:" + argument + utf8 + b"\r\n")
                else:
                    client.ask(b"MAIL FROM:<reader@client.test>" + utf8)
                    trial.send(client, b"RCPT TO:" + argument + b"\r\n")
                reply = client.read_reply()
                allowed = _allowed(trial, sending=sending, utf8=bool(utf8))
                assert reply[:3] in allowed, (sending, utf8, reply, allowed)
                assert reply[4:6] == reply[:1] + b".", "a reply without an enhanced status code"
                if reply.startswith(b"250") and not sending:
                    _deliver(client)
                    _check_recipient(trial)


def _allowed(trial: Trial, *, sending: bool, utf8: bool) -> set[bytes]:
    refused = SYNTAX if sending else SYNTAX | {b"550"}
    if not sending and b" " in trial.octets.rpartition(b">")[2]:
        return refused  # parameters are for MAIL alone
    taken = {b"250"} if sending or _is_ours(trial.octets) else {b"550"}
    taken_with_utf8 = taken if utf8 else {b"553"}
    meanings = {
        "ok": taken,
        "ok-null": taken if sending else {b"501"},
        "literal": taken,
        "escaped": taken,
        "not-relay": taken | (set() if _is_ours(trial.octets) else refused),
        "distinct": taken_with_utf8,
        "idna": taken_with_utf8,
        "refuse": refused | ({b"552"} if sending else set()),
    }
    meanings |= {str(code): {str(code).encode()} for code in range(500, 560)}
    meanings["501"] = meanings["553"] = {b"501", b"553"}  # servers differ which of them it is
    expect = trial.vector["expect"]
    if expect.endswith(UNLESS_UTF8):
        if utf8:
            return taken
        expect = expect.removesuffix(UNLESS_UTF8)
        return {expect.encode()} if expect.isdigit() else meanings.get(expect) or set()
    return set().union(*(meanings[each] for each in trial.expects(set(meanings))))


def _is_ours(argument: bytes) -> bool:
    local, domain = _parts(argument)
    return domain in HOSTS or (not domain and local.lower() == "postmaster")


def _parts(argument: bytes) -> tuple[str, str]:
    """Local part and domain without a source route, the domain as UTS 46 maps it."""
    path = _PATH.match(argument.lstrip(b" "))
    text = path[1].decode(errors="replace") if path else ""
    if text.startswith("@"):
        text = text.partition(":")[2]
    local, at, domain = text.rpartition("@")
    return (local, unicodedata.normalize("NFKC", domain).lower()) if at else (text, "")


def _deliver(client: Client) -> None:
    client.ask(b"DATA")
    assert client.ask(b"Subject: Hello\r\n\r\nHello.\r\n.").startswith(b"250 2.6.0")


def _check_recipient(trial: Trial) -> None:
    """Whoever is taken is taken by the name that was given, at a host of ours."""
    [recipient] = trial.shelf.mails[0].recipients
    local, _, domain = recipient.rpartition("@")
    given = _parts(trial.octets)[0]
    assert local in {given, unicodedata.normalize("NFC", given)}
    assert local.isascii() == given.isascii()
    assert domain in HOSTS


CHECKS: dict[str, Callable[[Trial], None]] = {
    "eod": _check_end,
    "eod-start": _check_end,
    "eod-pyline": _check_end,
    "eod-split": _check_split,
    "dot": _check_dots,
    "command": _check_command,
    "starttls": _check_starttls,
    "address": _check_address,
}
