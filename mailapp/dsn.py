"""Delivery status notifications (RFC 3464) that we send. Those that we get: `returns`."""

from __future__ import annotations

import base64
import logging
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from email.utils import format_datetime
from hashlib import blake2b
from itertools import accumulate, takewhile
from typing import TypeVar

from django.db import transaction
from django.utils import timezone

from mailapp import automatic, bounces, mime, outbox
from mailapp.addresses import fold
from mailapp.conf import mail_settings
from mailapp.errors import BadAddress, KeyUnusable
from mailapp.models import Duty, Message

logger = logging.getLogger(__name__)

Failure = tuple[str, str]  #: a recipient, and the reply that ended its delivery, or delays it
Item = TypeVar("Item")

_LARGEST = 50_000
_LARGEST_STATUS = 15_000
_LONGEST_LINE = 998  # RFC 5322 2.1.1
_HEADERS = """\
From: Mail Delivery System <mailer-daemon@{host}>
To: <{sender}>
Subject: {subject}
Date: {date}
Message-ID: {report_id}
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="{edge}"
"""


def post_failure(
    message: Message, failures: Sequence[Failure], *, head: bytes | None = None
) -> str:
    """Tell the sender of `message` for whom it failed and why, in the caller's transaction.

    There is one report for a message and one an hour for a sender. Return why this one was not
    posted, for the operator, or "". Nobody is owed one for the null sender, or about automatic
    mail (RFC 3834 section 2). `head` is the header section of the message, where the caller has
    it.
    """
    return _post(message, failures, head, until=None)


def post_delay(
    message: Message, delays: Sequence[Failure], until: datetime, *, head: bytes | None = None
) -> str:
    """Tell the sender, in the same way, that `message` is late and is tried `until` then."""
    return _post(message, delays, head, until)


def _post(
    message: Message, failures: Sequence[Failure], head: bytes | None, until: datetime | None
) -> str:
    if not message.sender or message.verp:  # its own deliveries say what failed
        return ""
    if _was_told(message, until):
        return "the sender was told of this mail before"
    if head is None:
        head = mime.head(message.raw)
    if automatic.is_automatic(mime.parse(head + b"\r\n\r\n")):
        return ""
    try:
        with transaction.atomic():  # the hour is free again if nothing is posted
            if not Duty.objects.take(_hour_of(message.sender), every=timedelta(hours=1)):
                return "the sender was told of another mail within the hour"
            outbox.post(
                compose(message, failures, head, until),
                sender="",
                recipients=[message.sender],
                cause=_cause(message, failures),
            )
    except BadAddress:  # an address at which nobody can be told
        return ""
    except KeyUnusable as error:
        logger.error("The sender of message %d is not told: %s", message.pk, error)  # noqa: TRY400
        return str(error)
    return ""


def noted(reply: str, untold: str) -> str:
    """Return what the operator reads of a failure: the reply, and why its sender is not told."""
    return f"{reply} ({untold})" if untold else reply


def _hour_of(sender: str) -> str:
    """The duty to tell a sender, whose address may be too long for a name."""
    return f"report {blake2b(fold(sender).encode(), digest_size=20).hexdigest()}"


def _was_told(message: Message, until: datetime | None) -> bool:
    report_id = _report_id(message, until)
    return Message.objects.filter(message_id=report_id, protocol="").exists()


def _report_id(message: Message, until: datetime | None) -> str:
    kind, stamp = "delay" if until else "failure", f"{message.created_at:%Y%m%d%H%M%S}"
    return f"<{kind}.{message.pk}.{stamp}@{mail_settings().hostname}>"


def _cause(message: Message, failures: Sequence[Failure]) -> int | None:
    failed = message.deliveries.filter(recipient=failures[0][0])
    return failed.values_list("pk", flat=True).first()


def compose(
    message: Message, failures: Sequence[Failure], head: bytes, until: datetime | None = None
) -> bytes:
    """Return a report of at most 50 kB: for people, for programs, and the original's headers.

    Of a failure, or with `until`, of a delay.
    """
    edge = f"report.{uuid.uuid4().hex}"
    named = _first(failures, _LARGEST_STATUS, lambda failure: len(_status(*failure, until)))
    report = [
        *_headers(message, edge, until),
        *_part(edge, "text/plain; charset=utf-8", _explanation(named, len(failures), until)),
        *_part(edge, "message/delivery-status", _statuses(message, named, until)),
    ]
    room = (_LARGEST - sum(len(line) + 2 for line in report)) * 7 // 10  # it may become base64
    returned = _first(head.splitlines(), room, lambda line: len(line) + 2)
    report += _part(edge, "text/rfc822-headers", b"\r\n".join(returned))
    return b"\r\n".join([*report, f"--{edge}--".encode(), b""])


def _first(items: Iterable[Item], octets: int, size: Callable[[Item], int]) -> list[Item]:
    """The first items that fit into so many octets together."""
    items = list(items)
    fitting = takewhile(lambda total: total <= octets, accumulate(map(size, items)))
    return items[: len(list(fitting))]


def _headers(message: Message, edge: str, until: datetime | None) -> list[bytes]:
    headers = _HEADERS.format(
        host=mail_settings().hostname,
        sender=mime.one_line(message.sender),
        subject="Mail not delivered yet" if until else "Undelivered mail returned to sender",
        date=format_datetime(timezone.now()),
        report_id=_report_id(message, until),
        edge=edge,
    )
    return [*headers.encode().splitlines(), b""]


def _part(edge: str, kind: str, content: bytes) -> list[bytes]:
    """A part as it is where any mail system carries that, else in base64."""
    lines = content.splitlines()
    plain = content.isascii() and b"\0" not in content
    if plain and max(map(len, lines), default=0) <= _LONGEST_LINE:
        encoding = b"7bit"
    else:
        encoding, lines = b"base64", base64.encodebytes(content).splitlines()
    return [
        b"--" + edge.encode(),
        b"Content-Type: " + kind.encode(),
        b"Content-Transfer-Encoding: " + encoding,
        b"",
        *lines,
        b"",
    ]


def _explanation(named: Sequence[Failure], failed: int, until: datetime | None) -> bytes:
    lines = [
        f"This is the mail system of {mail_settings().hostname}.",
        "",
        f"Your mail could not be delivered {'yet ' if until else ''}to:",
        "",
    ]
    for recipient, reply in named:
        lines += [f"<{mime.one_line(recipient)}>", f"    {_short(reply)}", ""]
    if failed > len(named):
        lines += [f"and {failed - len(named)} more recipients.", ""]
    if until:
        lines += [f"It is tried again until {format_datetime(until)}; you need not do anything."]
    else:
        lines += ["Nothing more will be tried."]
    lines += ["The headers of your mail follow."]
    return "\r\n".join(lines).encode()


def _statuses(message: Message, named: Sequence[Failure], until: datetime | None) -> bytes:
    about_the_message = (
        f"Reporting-MTA: dns; {mail_settings().hostname}\r\n"
        f"Arrival-Date: {format_datetime(message.created_at)}\r\n"
    )
    blocks = (_status(*failure, until) for failure in named)
    return "\r\n".join([about_the_message, *blocks]).encode()


def _status(recipient: str, reply: str, until: datetime | None) -> str:
    return (
        f"Final-Recipient: {_typed_address(recipient)}\r\n"
        f"Action: {'delayed' if until else 'failed'}\r\n"
        f"Status: {bounces.enhanced_status(reply)}\r\n"
        f"Diagnostic-Code: smtp; {_short(reply).encode('ascii', 'replace').decode()}\r\n"
        + (f"Will-Retry-Until: {format_datetime(until)}\r\n" if until else "")
    )


def _typed_address(address: str) -> str:
    r"""Return an address as RFC 3464 2.3.2 wants it, or RFC 6533 section 3 beyond ASCII.

    >>> _typed_address("reader@client.test"), _typed_address("lës@client.test")
    ('rfc822; reader@client.test', 'utf-8; l\\x{EB}s@client.test')
    """
    if address.isascii() and address.isprintable():
        return f"rfc822; {address}"
    return "utf-8; " + "".join(
        character
        if "!" <= character <= "~" and character not in "\\+="
        else f"\\x{{{ord(character):02X}}}"
        for character in address
    )


def _short(reply: str) -> str:
    return mime.one_line(reply)[:300]
