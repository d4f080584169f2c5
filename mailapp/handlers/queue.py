"""Puts all mail at our hosts into the queue `MAIL["COPIES_QUEUE"]` too, where it stays to be
looked at. While it is on, every address there is accepted.
"""

from __future__ import annotations

from mailapp.conf import mail_settings
from mailapp.models import Queue
from mailapp.request import MailRequest
from mailapp.routing import route, stateless

default_enabled = False


@stateless
@route("(anything)@(host)", anything=".+")
def KEEP(message: MailRequest, anything: str, host: str) -> None:
    queue, _ = Queue.objects.get_or_create(
        name=mail_settings().COPIES_QUEUE,
        defaults={
            "purpose": Queue.Purpose.HELD,
            "description": "Copies of the mail that came in, kept by mailapp.handlers.queue.",
        },
    )
    message.to_queue(queue.name)
