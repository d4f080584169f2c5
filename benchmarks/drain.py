"""`python -m benchmarks.drain by-hand|workers RECIPIENT COUNT`: time how a queue is drained."""

from __future__ import annotations

import sys
import time
import uuid

import django

from benchmarks.load import CONTENT, token_of

BATCH = 500
LOOK_SECONDS = 0.02


def fill(recipient: str, count: int) -> None:
    """Store `count` mails as the receiver would, each of another person."""
    from mailapp.models import Message, NewMail

    run = uuid.uuid4().hex[:8]
    mails = [
        NewMail(
            raw=CONTENT,
            sender=f"{token_of(run, number)}@client.test",
            recipients=[recipient],
            protocol="ESMTP",
        )
        for number in range(count)
    ]
    for start in range(0, count, BATCH):
        Message.objects.store(mails[start : start + BATCH])


def let_workers_drain() -> None:
    """Let the workers that run have the queue, and return when they are done."""
    from django.db import transaction

    from mailapp.models import INCOMING, Delivery, Queue
    from mailapp.wakeup import notify

    with transaction.atomic():
        Queue.objects.get(name=INCOMING).resume()
        notify(INCOMING)
    mail = Delivery.objects.filter(queue=INCOMING)
    while mail.due().exists() or mail.claimed().exists():
        time.sleep(LOOK_SECONDS)


def main(way: str, recipient: str, count: int) -> None:
    django.setup()
    from benchmarks import by_hand
    from mailapp import registry
    from mailapp.models import INCOMING, Queue

    registry.sync()
    Queue.objects.get(name=INCOMING).pause()
    fill(recipient, count)
    begin = time.perf_counter()
    {"by-hand": by_hand.drain, "workers": let_workers_drain}[way]()
    print(time.perf_counter() - begin)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
