"""Stands at the gate when it is asked whether it knows a recipient."""

from __future__ import annotations

from mailapp.request import MailRequest
from mailapp.routing import accepts, route

from .waiting import stand_at_gate


@accepts
def knows(host: str) -> bool:
    stand_at_gate()
    return True


@route("mail-ask@(host)")
def START(message: MailRequest, host: str) -> None: ...
