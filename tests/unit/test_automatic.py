"""Mail that machines sent is told from mail of people."""

from __future__ import annotations

import pytest

from mailapp import automatic, mime


@pytest.mark.parametrize(
    ("head", "by_machine"),
    [
        (b"Subject: Hello", False),
        (b"Auto-Submitted: no", False),
        (b"Auto-Submitted: NO; by=me", False),
        (b"Auto-Submitted: auto-replied", True),
        (b"Auto-Submitted: auto-generated; x=y", True),
        (b"Precedence: bulk", True),
        (b"Precedence: first-class", False),
        (b"From: MAILER-DAEMON@client.test (Mail Delivery System)", True),
        (b"From: Mail Delivery System <Mailer-Daemon>", True),
        (b"From: Administrator <postmaster@client.test>", True),
        (b"From: The Postmaster <reader@client.test>", False),
        (b"From: reader@client.test", False),
        (b"List-Id: <news.client.test>", True),
        (b"Content-Type: multipart/report; report-type=disposition-notification; boundary=b", True),
    ],
)
def test_mail_of_machines_is_known(head, by_machine):
    assert automatic.is_automatic(mime.parse(head + b"\r\n\r\n")) is by_machine


def test_machine_among_several_authors_gets_no_answer():
    message = mime.parse(b"From: reader@client.test, no-reply@client.test\r\n\r\n")

    assert automatic.why_no_answer(message) == "From: no-reply@client.test"
