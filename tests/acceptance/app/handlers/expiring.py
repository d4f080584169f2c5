"""Expects a second mail, at once or within three days, and stands at the gate when none comes."""

from __future__ import annotations

from mailapp.request import ConversationRequest, MailRequest
from mailapp.routing import after, route, route_like

from .waiting import stand_at_gate


@route("mail-(pace)@(host)", pace="hurry|linger")
def START(message: MailRequest, pace: str, host: str):
    return HURRYING if pace == "hurry" else LINGERING


@route_like(START)
def HURRYING(message: MailRequest, pace: str, host: str):
    return START


@route_like(START)
def LINGERING(message: MailRequest, pace: str, host: str):
    return START


@after(LINGERING, days=3)
@after(HURRYING, seconds=0.1)
def expire(conversation: ConversationRequest):
    stand_at_gate()
    conversation.respond("acceptance/counted.msg", count=1)
    return START
