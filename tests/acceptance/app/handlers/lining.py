"""Takes a person's mails in line: one that asks for it is taken at its second try."""

from __future__ import annotations

from mailapp.errors import SMTPError
from mailapp.request import MailRequest
from mailapp.routing import in_order, route, route_like


@in_order
@route("mail-line@(host)")
def START(message: MailRequest, host: str):
    _take(message)
    return ODD


@in_order
@route_like(START)
def ODD(message: MailRequest, host: str):
    _take(message)
    return EVEN


@in_order
@route_like(START)
def EVEN(message: MailRequest, host: str):
    _take(message)
    return ODD


def _take(message: MailRequest) -> None:
    if message.subject == "Later" and message.delivery.attempts == 1:
        raise SMTPError(450, "4.2.0 Later")
