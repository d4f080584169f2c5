"""`python -m benchmarks.fill COUNT DAYS`: fill an empty database with mails done so long ago.

Senders and Message-IDs are of the form that `benchmarks.load` sends, so that what comes in later
belongs at random places among them; the recipients are a hundred addresses of ours.
"""

from __future__ import annotations

import base64
import random
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta

import django
from django.core.management.color import no_style
from django.db import connection, models, transaction
from django.utils import timezone

# SQL that both databases understand. Django teaches SQLite md5.
TOKEN = "md5(cast(nth AS text))"
SENDER = f"{TOKEN} || '@client.test'"
RECIPIENT = "'note-' || (nth % 100) || '@localhost'"  # a hundred of our own addresses
MESSAGE_ID = f"'<' || {TOKEN} || '@client.test>'"
SIZE = "300 + (nth % 50) * (nth % 50)"  # many are small, a few ten times as large
LARGEST = 300 + 49 * 49

# These halve the time. Nobody else uses the database yet, and after a crash it is made anew.
BEFORE = {
    "postgresql": [
        "SELECT set_config('session_replication_role', 'replica', false)"  # no foreign keys
        " WHERE current_setting('is_superuser') = 'on'"
    ],
    "sqlite": ["PRAGMA journal_mode=OFF", "PRAGMA synchronous=OFF", "PRAGMA cache_size=-1000000"],
}
# What PostgreSQL would do behind our back while the rate is measured.
AFTER = {
    "postgresql": [
        "VACUUM ANALYZE",
        "DO 'BEGIN IF current_setting(''is_superuser'') = ''on'' THEN CHECKPOINT; END IF; END'",
    ],
    "sqlite": [],
}


def fill(count: int, handler: str, days: int = 0) -> None:
    """Store one mail as the receiver does, mark it done, begin a conversation; multiply it all."""
    from mailapp.models import (
        Attempt,
        Conversation,
        Delivery,
        Handler,
        Message,
        NewMail,
        RawMessage,
    )

    then = timezone.now() - timedelta(days=days)

    raw = base64.encodebytes(random.Random(0).randbytes(LARGEST))  # does not compress
    mail = NewMail(raw=raw, sender="a@client.test", recipients=["note@localhost"], protocol="ESMTP")
    Message.objects.store([mail])
    Delivery.objects.update(status=Delivery.Status.DONE, due_at=None, attempts=1, created_at=then)
    done = {"number": 1, "started_at": then, "ended_at": then, "outcome": Delivery.Status.DONE}
    Attempt.objects.create(delivery=Delivery.objects.get(), **done)
    Conversation.objects.create(
        handler=Handler.objects.get(module=handler), person="a@client.test", state="TALKING"
    )

    multiply(Message, count, {"sender": SENDER, "message_id": MESSAGE_ID, "size": SIZE})
    multiply(RawMessage, count, {"content": f"substr(content, 1, {SIZE})"})
    multiply(Delivery, count, {"person": SENDER, "recipient": RECIPIENT, "message_id": "nth"})
    multiply(Attempt, count, {"delivery_id": "nth", "number": "1"})
    multiply(Conversation, count, {"person": SENDER})


def multiply(model: type[models.Model], count: int, columns: Mapping[str, str]) -> None:
    """Copy the only row of a model until there are `count`; `columns` are what differs, in SQL."""
    table, key = model._meta.db_table, model._meta.pk.column
    values = {field.column: field.column for field in model._meta.concrete_fields}
    values |= {key: "nth", **columns}
    execute(
        [
            f"CREATE TEMPORARY TABLE template AS SELECT * FROM {table}",
            f"INSERT INTO {table} ({', '.join(values)}) "
            "WITH RECURSIVE series (nth) AS "
            f"(SELECT 2 UNION ALL SELECT nth + 1 FROM series WHERE nth < {count}) "
            f"SELECT {', '.join(values.values())} FROM series, template",
            "DROP TABLE template",
            *connection.ops.sequence_reset_sql(no_style(), [model]),
        ]
    )


def execute(statements: Sequence[str]) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def main(count: int, days: int) -> None:
    django.setup()
    from mailapp import registry

    registry.sync()
    execute(BEFORE[connection.vendor])
    with transaction.atomic():
        fill(count, "benchmarks.handlers", days)
    execute(AFTER[connection.vendor])


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
