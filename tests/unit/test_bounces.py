"""Bounces are read by RFC 3464, whatever strangers make of it."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailapp import bounces

CORPUS = Path(
    os.environ.get("MAIL_CORPUS") or Path(__file__).parents[2].parent / "shared" / "corpus"
)
KINDS = ["message/delivery-status", "message/global-delivery-status"]
EXPECTED = CORPUS / "flufl-bounce" / "EXPECTED.json"


def report(*blocks: str, kind: str = "message/delivery-status", returned: str = "") -> bytes:
    """A report with these groups of status fields and the headers of what bounced."""
    status = "\n\n".join(["Reporting-MTA: dns; mx.client.test", *blocks])
    return (
        "From: mailer-daemon@client.test\n"
        "Content-Type: multipart/report; report-type=delivery-status; boundary=edge\n\n"
        "--edge\nContent-Type: text/plain\n\nSorry.\n"
        f"--edge\nContent-Type: {kind}\n\n{status}\n"
        f"--edge\nContent-Type: text/rfc822-headers\n\n{returned}\n"
        "--edge--\n"
    ).encode()


def block(**fields: str) -> str:
    return "\n".join(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())


FAILED = block(
    Final_Recipient="rfc822; reader@client.test",
    Action="failed",
    Status="5.1.1",
    Diagnostic_Code="smtp; 550 5.1.1 User unknown",
)


def test_report_names_who_failed_and_why_and_the_mail_that_bounced():
    mail = report(FAILED, returned="Subject: News\nMessage-ID:\n <1@example.com>\n")

    bounce = bounces.read(mail)

    assert bounce is not None
    assert bounce.message_id == "<1@example.com>"
    assert bounce.recipients == ["reader@client.test"]
    assert not bounce.temporary
    assert bounce.reports[0].status == "5.1.1"
    assert bounce.reports[0].reply == "550 5.1.1 User unknown"


def test_delay_is_temporary():
    late = block(Final_Recipient="rfc822; reader@client.test", Action="delayed", Status="4.4.1")

    bounce = bounces.read(report(late))

    assert bounce is not None
    assert bounce.temporary
    assert bounce.reports[0].reply == "450 4.4.1 Reported by a bounce"


def test_bounce_is_permanent_when_one_recipient_of_two_failed():
    late = block(Final_Recipient="rfc822; you@client.test", Action="delayed", Status="4.4.1")

    bounce = bounces.read(report(late, FAILED))

    assert bounce is not None
    assert [report.temporary for report in bounce.reports] == [True, False]
    assert not bounce.temporary


@pytest.mark.parametrize("action", ["delivered", "relayed", "expanded"])
def test_report_of_success_is_no_bounce(action: str):
    good = block(Final_Recipient="rfc822; reader@client.test", Action=action, Status="2.0.0")

    assert bounces.read(report(good)) is None


def test_original_recipient_counts_before_the_final_one():
    moved = block(
        Original_Recipient="rfc822; reader@client.test",
        Final_Recipient="rfc822; r1234@mailbox.client.test",
        Action="failed",
    )

    bounce = bounces.read(report(moved))

    assert bounce is not None
    assert bounce.recipients == ["reader@client.test"]
    assert bounce.reports[0].status == "5.0.0"


def test_missing_action_is_told_by_the_status():
    late = block(Final_Recipient="rfc822; reader@client.test", Status="4.2.2")

    bounce = bounces.read(report(late))

    assert bounce is not None
    assert bounce.temporary


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("address", ["lës@client.test", r"l\x{EB}s@client.test"])
def test_address_beyond_ascii_is_read(kind: str, address: str):
    failed = block(Final_Recipient=f"utf-8; {address}", Action="failed", Status="5.1.1")

    bounce = bounces.read(report(failed, kind=kind))

    assert bounce is not None
    assert bounce.recipients == ["lës@client.test"]


@pytest.mark.parametrize(
    "written",
    [
        "rfc822; reader@client.test (a reader)",
        "rfc822; A Reader <reader@client.test>",
        "rfc822; <reader@client.test>",
        "rfc822;reader@client.test.",
        "reader@client.test",
    ],
)
def test_recipient_is_read_whatever_stands_beside_it(written: str):
    bounce = bounces.read(report(block(Final_Recipient=written, Action="failed")))

    assert bounce is not None
    assert bounce.recipients == ["reader@client.test"]


def test_action_is_read_whatever_stands_behind_it():
    reader = "rfc822; reader@client.test"
    good = block(Final_Recipient=reader, Action="delivered(ok)", Status="2.0.0")
    late = block(Final_Recipient=reader, Action="delayed; 4.4.1")

    assert bounces.read(report(good)) is None
    bounce = bounces.read(report(late))
    assert bounce is not None
    assert bounce.temporary


def test_id_of_the_mail_that_bounced_is_read_without_a_comment():
    bounce = bounces.read(report(FAILED, returned="Message-ID: <1@example.com> (added by mx)\n"))

    assert bounce is not None
    assert bounce.message_id == "<1@example.com>"


def in_base64(text: str) -> str:
    return base64.encodebytes(text.encode()).decode()


def in_quoted_printable(text: str) -> str:
    return text.replace("=", "=3D").replace("unknown", "un=\nknown")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("encoding", "encode"),
    [("base64", in_base64), ("Quoted-Printable", in_quoted_printable)],
)
def test_parts_that_are_encoded_are_read(kind: str, encoding: str, encode: Callable[[str], str]):
    status = f"Reporting-MTA: dns; mx.client.test\n\n{FAILED.replace('User', 'a=b')}\n"
    returned = "Subject: unknown\nMessage-ID: <1@example.com>\n\nHello.\n"
    mail = "Content-Type: multipart/report; report-type=delivery-status; boundary=edge\n\n"
    for each, content in ((kind, status), ("message/rfc822", returned)):
        mail += f"--edge\nContent-Type: {each}\nContent-Transfer-Encoding: {encoding}\n\n"
        mail += f"{encode(content)}\n"

    bounce = bounces.read(f"{mail}--edge--\n".encode())

    assert bounce is not None
    assert bounce.recipients == ["reader@client.test"]
    assert bounce.reports[0].reply == "550 5.1.1 a=b unknown"
    assert bounce.message_id == "<1@example.com>"


def test_bounce_that_a_person_forwards_is_no_bounce():
    inner = report(FAILED).decode()
    mail = (
        "Content-Type: multipart/mixed; boundary=outer\n\n"
        "--outer\nContent-Type: text/plain\n\nWhat is this?\n"
        f"--outer\nContent-Type: message/rfc822\n\n{inner}\n--outer--\n"
    )

    assert bounces.read(mail.encode()) is None


def test_report_without_a_recipient_is_no_bounce():
    assert bounces.read(report(block(Action="failed", Status="5.0.0"))) is None


def test_recipient_of_another_mail_system_is_left_out():
    failed = block(Final_Recipient="x400; /S=reader/PRMD=client/", Action="failed")

    assert bounces.read(report(failed)) is None


def test_ordinary_mail_is_no_bounce():
    assert bounces.read(b"Subject: Hello\r\n\r\nFinal-Recipient: rfc822; a@b.test\r\n") is None


def corpus_reports() -> list[dict[str, Any]]:
    entries = json.loads(EXPECTED.read_text()) if EXPECTED.exists() else []
    return [entry for entry in entries if entry["detector"] == "dsn"]


@pytest.mark.skipif(not EXPECTED.exists(), reason=f"no corpus of bounces in {CORPUS}")
def test_corpus_of_reports_is_read_as_it_is_labelled():
    entries = corpus_reports()

    found = {
        entry["file"]: bounces.read((EXPECTED.parent / entry["file"]).read_bytes())
        for entry in entries
    }

    assert {
        name: bounce and (sorted(bounce.recipients), bounce.temporary)
        for name, bounce in found.items()
    } == {entry["file"]: (sorted(entry["addresses"]), entry["temporary"]) for entry in entries}


@pytest.mark.skipif(not EXPECTED.exists(), reason=f"no corpus of bounces in {CORPUS}")
def test_corpus_of_other_bounces_is_never_misread():
    entries = {entry["file"]: entry for entry in json.loads(EXPECTED.read_text())}

    for name, entry in entries.items():
        bounce = bounces.read((EXPECTED.parent / name).read_bytes())
        assert bounce is None or sorted(bounce.recipients) == sorted(entry["addresses"]), name


FIELDS = st.sampled_from(
    ["Final-Recipient", "Original-Recipient", "Action", "Status", "Diagnostic-Code", "X"]
)
VALUES = st.one_of(
    st.text(),
    st.sampled_from(["rfc822; a@b.test", "utf-8; \\x{110000}@b", "failed", "5.1.1", ";", "=?x?b?"]),
)
BLOCKS = st.lists(st.lists(st.tuples(FIELDS, VALUES).map(": ".join)).map("\n".join), max_size=4)


@given(BLOCKS, st.text(), st.sampled_from(KINDS))
def test_strange_reports_never_raise(blocks: list[str], returned: str, kind: str):
    mail = report(*blocks, kind=kind, returned=returned)

    bounce = bounces.read(mail)

    assert bounce is None or bounce.recipients


PARTS = st.lists(
    st.sampled_from(
        [
            b"Content-Type: multipart/report; boundary=e\n",
            b"Content-Type: multipart/report; report-type=delivery-status; boundary*=\0'x'y\n",
            b"Content-Type: message/rfc822\n",
            b"Content-Type: message/delivery-status\n",
            b"Content-Type: message/global-delivery-status\n",
            b"Content-Type: text/rfc822-headers\n",
            b"Content-Transfer-Encoding: base64\n",
            b"Content-Transfer-Encoding: uuencode\n",
            b"Final-Recipient: rfc822; reader@client.test\n",
            b"Action: failed\n",
            b"Message-ID: <1@example.com>\n",
            b"\n",
            b"--e\n",
            b"--e--\n",
            b"\r",
            b"\0",
            b"\xff",
        ]
    )
    | st.binary(max_size=20),
    max_size=40,
)


@given(PARTS.map(b"".join))
def test_strange_mail_never_raises(mail: bytes):
    bounce = bounces.read(mail)

    assert bounce is None or bounce.recipients


def test_mail_nested_beyond_all_reason_does_not_raise():
    assert bounces.read(b"Content-Type: message/rfc822\n\n" * 2000) is None
