"""Reads all that a handler can read of a mail, and answers and forwards it."""

from __future__ import annotations

from mailapp.request import MailRequest
from mailapp.routing import route, stateless


@stateless
@route("mail-read@(host)")
def READ(message: MailRequest, host: str) -> None:
    read = _all_of(message)[:500]
    message.forward("archive@client.test", headers=[("X-Read", read), ("X-Original", "follows")])


@route("mail-answer@(host)")
def START(message: MailRequest, host: str) -> None:
    message.respond("acceptance/read.msg", everything=_all_of(message))


def _all_of(message: MailRequest) -> str:
    """Ask for everything, and fail if any of it is not what it is said to be."""
    texts = [
        message.sender,
        message.recipient,
        message.subject,
        message.author,
        message.body(),
        message.html(),
        message.reply_text(),
        message.header("Message-ID"),
    ]
    texts += [text for field in message.headers for text in field]
    for attachment in message.attachments:
        assert isinstance(attachment.content, bytes)
        texts += [attachment.filename, attachment.content_type]
    if message.bounce is not None:
        for report in message.bounce.reports:
            texts += [report.recipient, report.reply]
    flags = [message.is_bounce, message.is_automatic]
    assert isinstance(message.raw, bytes)
    return "\n".join([*texts, *map(str, flags)])
