"""`python -m benchmarks.drain bare|worker RECIPIENT COUNT`: time how a queue is drained."""

from __future__ import annotations

import sys
import time
import uuid

import django

RAW = b"Subject: benchmark\r\n\r\n" + (b"x" * 78 + b"\r\n") * 51
BATCH = 500


def fill(recipient: str, count: int) -> None:
    """Store `count` mails as the receiver would, each of another person."""
    from mailapp.models import Message, NewMail

    run = uuid.uuid4().hex[:8]
    mails = [
        NewMail(
            raw=RAW,
            sender=f"{run}-{number}@client.test",
            recipients=[recipient],
            protocol="ESMTP",
        )
        for number in range(count)
    ]
    for start in range(0, count, BATCH):
        Message.objects.store(mails[start : start + BATCH])


def bare() -> None:
    """Read each mail and mark it done: the least that a loop over the ORM can do."""
    from django.db import transaction

    from mailapp.models import INCOMING, Delivery

    for pk in list(Delivery.objects.filter(queue=INCOMING).due().values_list("pk", flat=True)):
        with transaction.atomic():
            delivery = Delivery.objects.select_related("message__raw_message").get(pk=pk)
            assert delivery.message.raw
            delivery.status, delivery.due_at = Delivery.Status.DONE, None
            delivery.save(update_fields=["status", "due_at"])


def worker() -> None:
    """Drain the queue as the worker does."""
    from mailapp.lifecycle import living
    from mailapp.models import INCOMING, Process
    from mailapp.worker import drain

    with living(Process.Kind.WORKER, INCOMING) as life:
        drain(INCOMING, life)


def main(way: str, recipient: str, count: int) -> None:
    django.setup()
    from mailapp import registry

    registry.sync()
    fill(recipient, count)
    begin = time.perf_counter()
    {"bare": bare, "worker": worker}[way]()
    print(time.perf_counter() - begin)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
