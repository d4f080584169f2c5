"""`python -m benchmarks.post list|single|django COUNT`: post mail, or send it by Django."""

from __future__ import annotations

import os
import resource
import sys
import time
import uuid
from collections.abc import Callable

import django

from benchmarks.load import CONTENT, token_of

SENDER = "news@localhost"
BATCH = 500


def post_to_list(readers: list[str]) -> None:
    """Put one mail to all into the outbox, of which each gets a copy with a link to leave by."""
    from django.db import transaction

    from mailapp import outbox

    with transaction.atomic():
        outbox.post(CONTENT, sender=SENDER, recipients=readers, list_address=SENDER)


def post_one_by_one(readers: list[str]) -> None:
    """Put a mail to each into the outbox."""
    from mailapp.models import OUTGOING, Message, NewMail

    mails = [
        NewMail(raw=CONTENT, sender=SENDER, recipients=[reader], queue=OUTGOING)
        for reader in readers
    ]
    for start in range(0, len(mails), BATCH):
        Message.objects.store(mails[start : start + BATCH])


def send_by_django(readers: list[str]) -> None:
    """Send a mail to each by Django's SMTP backend, over one connection."""
    from django.core.mail import EmailMessage
    from django.core.mail.backends.smtp import EmailBackend

    host, _, port = os.environ["MAIL_RELAY"].rpartition(":")
    body = CONTENT.partition(b"\r\n\r\n")[2].decode().replace("\r\n", "\n")
    whole = {"username": "", "password": "", "use_tls": False, "use_ssl": False}  # no settings
    files = {"ssl_keyfile": "", "ssl_certfile": ""}
    with EmailBackend(host, int(port), timeout=60, **whole, **files) as connection:
        for reader in readers:
            connection.send_messages([EmailMessage("benchmark", body, SENDER, [reader])])


WAYS: dict[str, Callable[[list[str]], None]] = {
    "list": post_to_list,
    "single": post_one_by_one,
    "django": send_by_django,
}


def main(way: str, count: int) -> None:
    """Print the seconds that it took, and by how many megabytes memory grew."""
    django.setup()
    run = uuid.uuid4().hex[:8]
    readers = [f"{token_of(run, number)}@client.test" for number in range(count)]
    before, begin = _peak(), time.perf_counter()
    WAYS[way](readers)
    print(time.perf_counter() - begin, _peak() - before)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
