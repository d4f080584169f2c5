"""Counts a person's mails and answers each: a state, a number and a mail that must agree."""

from __future__ import annotations

from mailapp.request import MailRequest
from mailapp.routing import route, route_like


@route("mail-count@(host)")
def START(message: MailRequest, host: str):
    _count(message)
    return ODD


@route_like(START)
def ODD(message: MailRequest, host: str):
    _count(message)
    return EVEN


@route_like(START)
def EVEN(message: MailRequest, host: str):
    _count(message)
    return ODD


def _count(message: MailRequest) -> None:
    message.data["count"] = message.data.get("count", 0) + 1
    message.respond("acceptance/counted.msg", count=message.data["count"])
