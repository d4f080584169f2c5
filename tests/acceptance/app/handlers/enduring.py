"""Causes all that a handler can: states in order, answers, large mails, a timer, a note."""

from __future__ import annotations

from mailapp.errors import SMTPError
from mailapp.request import ConversationRequest, MailRequest
from mailapp.routing import after, in_order, non_atomic, route, route_like, stateless


@in_order
@route("mail-endure@(host)")
def START(message: MailRequest, host: str):
    _take(message)
    return WAITING


@in_order
@route_like(START)
def WAITING(message: MailRequest, host: str) -> None:
    _take(message)


@after(WAITING, seconds=0.1)
def remind(conversation: ConversationRequest):
    conversation.respond("acceptance/counted.msg", count=0)
    return REMINDED


@in_order
@route_like(START)
def REMINDED(message: MailRequest, host: str) -> None:
    _take(message)


@stateless
@non_atomic
@route("mail-note@(host)")
def NOTE(message: MailRequest, host: str) -> None:
    message.respond("acceptance/counted.msg", count=0)


def _take(message: MailRequest) -> None:
    if "later" in message.subject and message.delivery.attempts == 1:
        raise SMTPError(450, "4.2.0 Later")
    seen = message.data["seen"] = [*message.data.get("seen", []), message.subject]
    message.respond("acceptance/counted.msg", count=len(seen))
    if "large" in message.subject:
        message.forward("archive@client.test")
