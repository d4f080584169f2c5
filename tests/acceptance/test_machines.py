"""Machines that share a database and a bucket, and no folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connection

from tests.bucket import Bucket, NoBucket
from tests.ledger import Client, Ledger, Letter
from tests.waiting import wait_until

LARGE = b"Subject: Large\r\n\r\n" + b"A line of a large mail.\r\n" * 2000


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    if connection.vendor == "sqlite":
        pytest.skip("of PostgreSQL")
    try:
        made = Bucket()
    except NoBucket as error:
        pytest.skip(str(error))
    made.start()
    yield made
    made.stop()


def send(address: str, recipient: str, raw: bytes) -> None:
    with contextlib.closing(Client(address, Ledger())) as client:
        client.send(Letter("", "writer@client.test", [recipient], raw))


def caught(maildir: Path) -> list[bytes]:
    return [path.read_bytes() for path in maildir.glob("new/*")]


def test_large_mail_is_taken_in_worked_and_sent_by_three_machines(project, bucket):
    receiving = project(
        DJANGO_SETTINGS_MODULE="tests.acceptance.bucket_settings", MAIL_BUCKET_URL=bucket.url
    )
    working, relaying = project(beside=receiving), project(beside=receiving)
    receiving.start("runmail", "--only", "receiver", until="")
    working.start("runworker", until="Ctrl-C ends it.")
    relaying.start("runmail", "--only", "catcher", until="")
    relaying.start("runmail", "--only", "relay", until="")

    send(receiving.receiver, "mail-read@localhost", LARGE)

    [sent] = wait_until(lambda: caught(relaying.caught))
    assert LARGE.partition(b"\r\n\r\n")[2] in sent.replace(b"\n", b"\r\n")
    assert len(bucket.names()) == 2  # as it came, and as it was forwarded
