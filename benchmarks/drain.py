"""`python -m benchmarks.drain by-hand|worker RECIPIENT COUNT`: time how a queue is drained."""

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


def worker() -> None:
    """Drain the queue as the worker does."""
    from mailapp.lifecycle import living
    from mailapp.models import INCOMING, Process
    from mailapp.worker import drain

    with living(Process.Kind.WORKER, INCOMING) as life:
        drain(INCOMING, life)


def main(way: str, recipient: str, count: int) -> None:
    django.setup()
    from benchmarks import by_hand
    from mailapp import registry

    registry.sync()
    fill(recipient, count)
    begin = time.perf_counter()
    {"by-hand": by_hand.drain, "worker": worker}[way]()
    print(time.perf_counter() - begin)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
