"""`python -m benchmarks.fill COUNT`: fill an empty database with mails that are done.

Senders and Message-IDs are of the form that `benchmarks.load` sends, so that what comes in later
belongs at random places among them; the recipients are a hundred addresses of ours.
"""

from __future__ import annotations

import base64
import random
import sys
from collections.abc import Mapping, Sequence

import django
from django.core.management.color import no_style
from django.db import connection, models, transaction

# SQL that both databases understand. Django teaches SQLite md5.
TOKEN = "md5(cast(number AS text))"
SENDER = f"{TOKEN} || '@client.test'"
RECIPIENT = "'note-' || (number % 100) || '@localhost'"  # a hundred of our own addresses
MESSAGE_ID = f"'<' || {TOKEN} || '@client.test>'"
SIZE = "300 + (number % 50) * (number % 50)"  # many are small, a few ten times as large
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


def fill(count: int) -> None:
    """Store one mail as the receiver does, mark it done, and multiply it."""
    from mailapp.models import Delivery, Message, NewMail, RawMessage

    raw = base64.encodebytes(random.Random(0).randbytes(LARGEST))  # does not compress
    mail = NewMail(raw=raw, sender="a@client.test", recipients=["note@localhost"], protocol="ESMTP")
    Message.objects.store([mail])
    Delivery.objects.update(status=Delivery.Status.DONE, due_at=None, attempts=1)

    multiply(Message, count, {"sender": SENDER, "message_id": MESSAGE_ID, "size": SIZE})
    multiply(RawMessage, count, {"content": f"substr(content, 1, {SIZE})"})
    multiply(Delivery, count, {"person": SENDER, "recipient": RECIPIENT, "message_id": "number"})


def multiply(model: type[models.Model], count: int, columns: Mapping[str, str]) -> None:
    """Copy the only row of a model until there are `count`; `columns` are what differs, in SQL."""
    table, key = model._meta.db_table, model._meta.pk.column
    values = {field.column: field.column for field in model._meta.concrete_fields}
    values |= {key: "number", **columns}
    execute(
        [
            f"CREATE TEMPORARY TABLE template AS SELECT * FROM {table}",
            f"INSERT INTO {table} ({', '.join(values)}) "
            "WITH RECURSIVE series (number) AS "
            f"(SELECT 2 UNION ALL SELECT number + 1 FROM series WHERE number < {count}) "
            f"SELECT {', '.join(values.values())} FROM series, template",
            "DROP TABLE template",
            *connection.ops.sequence_reset_sql(no_style(), [model]),
        ]
    )


def execute(statements: Sequence[str]) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def main(count: int) -> None:
    django.setup()
    execute(BEFORE[connection.vendor])
    with transaction.atomic():
        fill(count)
    execute(AFTER[connection.vendor])


if __name__ == "__main__":
    main(int(sys.argv[1]))
