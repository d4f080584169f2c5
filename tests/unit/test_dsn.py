"""The report that we send is one by RFC 3464, small, and safe to send."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mailapp import automatic, bounces, dsn, mime
from mailapp.models import Message

HEAD = b"From: reader@client.test\r\nSubject: News\r\nMessage-ID: <1@client.test>"
FAILURES = [("you@example.com", "550 5.1.1 User unknown")]


def sent_by(sender: str) -> Message:
    return Message(pk=7, sender=sender)


def text_of(report: bytes) -> str:
    return mime.text_of(mime.parse(report))


def test_report_is_read_by_our_own_reader():
    report = dsn.compose(sent_by("reader@client.test"), FAILURES, HEAD)

    bounce = bounces.read(report)

    assert bounce is not None
    assert bounce.message_id == "<1@client.test>"
    assert bounce.recipients == ["you@example.com"]
    assert bounce.reports[0].status == "5.1.1"
    assert bounce.reports[0].reply == "550 5.1.1 User unknown"
    assert not bounce.temporary


def test_report_names_itself_automatic_and_a_report():
    report = mime.parse(dsn.compose(sent_by("reader@client.test"), FAILURES, HEAD))

    assert automatic.is_automatic(report)
    assert mime.header(report, "Auto-Submitted") == "auto-replied"
    assert mime.header(report, "To") == "<reader@client.test>"
    assert report.get_param("report-type") == "delivery-status"
    assert [part.get_content_type() for part in report.get_payload()] == [
        "text/plain",
        "message/delivery-status",
        "text/rfc822-headers",
    ]


def test_person_reads_who_failed_and_why():
    report = dsn.compose(sent_by("reader@client.test"), FAILURES, HEAD)

    assert "<you@example.com>\n    550 5.1.1 User unknown\n" in text_of(report)


def test_reply_without_an_enhanced_status_gets_the_status_of_its_class():
    failures = [("a@example.com", "451 later"), ("b@example.com", "554 never")]

    bounce = bounces.read(dsn.compose(sent_by("reader@client.test"), failures, HEAD))

    assert bounce is not None
    assert [report.status for report in bounce.reports] == ["4.0.0", "5.0.0"]
    assert not bounce.temporary


@pytest.mark.parametrize("recipient", ["lës@example.com", "ёж+a=b@example.com", "%@example.com"])
def test_unusual_recipient_is_told_exactly(recipient: str):
    report = dsn.compose(sent_by("reader@client.test"), [(recipient, "550 no")], HEAD)

    bounce = bounces.read(report)

    assert report.isascii()
    assert bounce is not None
    assert bounce.recipients == [recipient]
    assert f"<{recipient}>" in text_of(report)


def test_lines_in_a_reply_add_no_header_field():
    failures = [("you@example.com", "550 no\r\nAction: delivered\r\n\r\n--x")]

    report = dsn.compose(sent_by("reader@client.test"), failures, HEAD)

    assert b"\nAction: delivered" not in report


def test_headers_with_raw_octets_or_endless_lines_are_carried_whole():
    head = b"Subject: caf\xe9 \0\r\nX-Long: " + b"x" * 2000 + b"\nMessage-ID: <1@client.test>"

    report = dsn.compose(sent_by("reader@client.test"), FAILURES, head)

    bounce = bounces.read(report)
    assert bounce is not None
    assert bounce.message_id == "<1@client.test>"
    assert report.isascii()
    assert max(map(len, report.splitlines())) <= 998
    returned = mime.parse(report).get_payload(2)
    assert mime.content(returned) == head.replace(b"x\n", b"x\r\n")


@pytest.mark.parametrize("filler", [b"x", b"\xff"])
def test_report_is_never_larger_than_it_may_be(filler: bytes):
    head = (b"X-Filler: " + filler * 900 + b"\r\n") * 200
    failures = [(f"ё{number}@example.com", "550 5.1.1 " + "ё" * 500) for number in range(1000)]

    report = dsn.compose(sent_by("reader@client.test"), failures, head)

    assert 30_000 < len(report) <= 50_000
    bounce = bounces.read(report)
    assert bounce is not None
    assert f"and {1000 - len(bounce.recipients)} more recipients." in text_of(report)


def test_report_ends_every_line_with_crlf():
    report = dsn.compose(sent_by("reader@client.test"), FAILURES, HEAD.replace(b"\r\n", b"\n"))

    assert report.count(b"\r\n") == report.count(b"\n") == report.count(b"\r")


UNTIL = datetime(2026, 12, 3, 10, tzinfo=UTC)
DELAYS = [("you@example.com", "450 4.2.0 Greylisted")]


def test_notice_of_a_delay_says_until_when_the_mail_is_tried():
    notice = dsn.compose(sent_by("reader@client.test"), DELAYS, HEAD, UNTIL)

    bounce = bounces.read(notice)
    assert bounce is not None
    assert bounce.temporary
    assert bounce.reports[0].reply == "450 4.2.0 Greylisted"
    assert b"\r\nAction: delayed\r\n" in notice
    assert b"\r\nWill-Retry-Until: Thu, 03 Dec 2026 10:00:00 +0000\r\n" in notice
    assert "tried again until Thu, 03 Dec 2026 10:00:00 +0000" in text_of(notice)


def test_report_of_a_failure_promises_no_further_try():
    report = dsn.compose(sent_by("reader@client.test"), FAILURES, HEAD)

    assert b"Will-Retry-Until" not in report
    assert "Nothing more will be tried." in text_of(report)


def test_notice_of_a_delay_is_automatic_so_that_none_is_sent_about_it():
    assert automatic.is_automatic(
        mime.parse(dsn.compose(sent_by("reader@client.test"), DELAYS, HEAD, UNTIL))
    )
