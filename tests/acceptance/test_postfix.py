"""A real Postfix in front of our receiver, which stores, refuses, and is away for a while."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.postfix import HOSTNAME, NoPostfix, Postfix, own_postfix, smtp_to
from tests.waiting import wait_until

if TYPE_CHECKING:
    from mailapp.models import Message
    from tests.project import Program, Project

SENDER = "mail-answer@example.com"  # who writes is here, too, and so a bounce comes to us
RECIPIENTS = ["mail-count@example.com", "mail-read@example.com"]
UNKNOWN = "unheard.of@example.com"

HEAD = b"""\
From: mail-answer@example.com\r
To: mail-count@example.com\r
Date: Mon, 02 Mar 2026 09:30:00 +0000\r
Message-ID: <%s@client.test>\r
Subject: Hello\r
\r
"""
BODY = b"""\
.\r
..two dots\r
From here\r
trailing blanks  \t\r
\r
%b\r
%b\r
\r
""" % (bytes(sorted(set(range(1, 256)) - {*b"\r\n"})), b"A line that is too long. " * 100)
SMALL = HEAD % b"small" + BODY
LARGE = HEAD % b"large" + BODY * 100  # over the INLINE_SIZE of these tests
WITH_NUL = HEAD % b"nul" + b"NUL: \0\r\n"

WAYS = ["smtp", "lmtp", "lmtp on a Unix socket"]

pytestmark = pytest.mark.any_database


class Site(NamedTuple):
    """Postfix, our receiver, and how the one reaches the other."""

    postfix: Postfix
    project: Project
    program: Program
    protocol: str  #: what is spoken between them
    place: str  #: where the receiver listens for it

    def start_again(self) -> None:
        """Return when the receiver takes mail."""
        _start(self.project, self.place)


@pytest.fixture(params=WAYS)
def site(request: pytest.FixtureRequest, project: Callable[..., Project]) -> Iterator[Site]:
    """A receiver of mail for example.com that gets it from a Postfix."""
    running = project(
        DJANGO_SETTINGS_MODULE="tests.acceptance.lmtp_settings", MAIL_HOSTS="example.com"
    )
    running.folder.chmod(0o711)  # the user postfix has to reach the socket in it
    lmtp = running.web if request.param == "lmtp" else f"{running.folder}/lmtp"
    running.environment["MAIL_LMTP"] = lmtp
    protocol, place, transport = {
        "smtp": ("ESMTP", running.receiver, smtp_to(running.receiver)),
        "lmtp": ("LMTP", lmtp, f"lmtp:inet:{lmtp}"),
        "lmtp on a Unix socket": ("LMTP", lmtp, f"lmtp:unix:{lmtp}"),
    }[request.param]
    try:
        with own_postfix({"example.com": transport}) as postfix:
            yield Site(postfix, running, _start(running, place), protocol, place)
    except NoPostfix as error:
        pytest.skip(str(error))


def _start(project: Project, place: str) -> Program:
    program = project.start("runmail", "--only", "receiver", until="")
    wait_until(lambda: _is_open(place))
    return program


def _is_open(place: str) -> bool:
    host, _, port = place.rpartition(":")
    with socket.socket(socket.AF_INET if host else socket.AF_UNIX) as client:
        return client.connect_ex((host, int(port)) if host else place) == 0


def test_mail_from_postfix_is_stored_for_its_recipients_byte_for_byte(site: Site) -> None:
    for content in (SMALL, LARGE):
        site.postfix.send(SENDER, RECIPIENTS, content)

    for recipient in RECIPIENTS:
        wait_until(lambda r=recipient: len(site.postfix.outcomes(r)) == 2)
    # Each recipient by a reply of its own: where one is missing, Postfix takes that to QUIT for it.
    assert site.postfix.log.count("status=sent (250 2.6.0 Message stored)") == 4
    small, large = _stored(site, "small"), _stored(site, "large")
    assert _raw(site, small).endswith(SMALL)
    assert _raw(site, large).endswith(LARGE)
    assert small.raw_message.content is not None
    assert large.raw_message.content is None
    for message in (small, large):
        assert _raw(site, message).startswith(b"Received: by " + HOSTNAME.encode())
        assert _recipients(message) == RECIPIENTS
        assert (message.sender, message.helo) == (SENDER, HOSTNAME)
        assert message.protocol == site.protocol


@pytest.mark.parametrize("site", WAYS[:2], indirect=True)
def test_refused_recipient_is_bounced_by_postfix_and_the_other_has_the_mail(site: Site) -> None:
    site.postfix.send(SENDER, [UNKNOWN, RECIPIENTS[0]], SMALL)

    wait_until(lambda: site.postfix.outcomes(SENDER))
    assert site.postfix.outcomes(RECIPIENTS[0]) == ["sent"]
    assert site.postfix.outcomes(UNKNOWN) == ["bounced"]
    assert _recipients(_stored(site, "small")) == [RECIPIENTS[0]]
    assert _bounced(site) == {UNKNOWN: "550 5.1.1 No such recipient here"}


@pytest.mark.parametrize("site", WAYS[:2], indirect=True)
def test_mail_that_is_refused_for_good_is_bounced_by_postfix(site: Site) -> None:
    site.postfix.send(SENDER, RECIPIENTS, WITH_NUL)

    wait_until(lambda: site.postfix.outcomes(SENDER))
    reply = "550 5.6.11 Bare CR, bare LF or NUL in the message"
    assert [site.postfix.outcomes(recipient) for recipient in RECIPIENTS] == [["bounced"]] * 2
    assert _bounced(site) == dict.fromkeys(RECIPIENTS, reply)
    assert len(_messages(site)) == 1


def test_mail_waits_in_postfix_while_the_receiver_is_away_and_then_comes_once(site: Site) -> None:
    assert site.program.stop() == 0
    site.postfix.send(SENDER, RECIPIENTS, SMALL)
    wait_until(lambda: site.postfix.put_off() == 1)

    site.start_again()
    site.postfix.flush()

    for recipient in RECIPIENTS:
        wait_until(lambda r=recipient: site.postfix.outcomes(r) == ["deferred", "sent"])
    assert site.postfix.put_off() == 0
    [message] = _messages(site)
    assert _recipients(message) == RECIPIENTS


def _messages(site: Site) -> list[Message]:
    from mailapp.models import Message

    return list(site.project.query(Message))


def _stored(site: Site, name: str) -> Message:
    from mailapp.models import Message

    return site.project.query(Message).get(message_id=f"<{name}@client.test>")


def _recipients(message: Message) -> list[str]:
    return list(message.deliveries.order_by("id").values_list("recipient", flat=True))


def _raw(site: Site, message: Message) -> bytes:
    row = message.raw_message
    if row.content is not None:
        return bytes(row.content)
    return Path(site.project.folder, "large", row.file).read_bytes()


def _bounced(site: Site) -> dict[str, str]:
    """What the one bounce says that was stored: the reply to each recipient."""
    from mailapp import bounces
    from mailapp.models import Message

    message = site.project.query(Message).get(sender="")
    bounce = bounces.read(_raw(site, message))
    assert bounce is not None
    assert _recipients(message) == [SENDER]
    return {report.recipient: report.reply for report in bounce.reports}
