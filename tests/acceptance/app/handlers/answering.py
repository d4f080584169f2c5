"""Answers everything: as it should be, though the mail is automatic, and as if a person wrote."""

from __future__ import annotations

from mailapp.request import MailRequest
from mailapp.routing import route, stateless


@stateless
@route("mail-chat-politely@(host)")
def POLITE(message: MailRequest, host: str):
    message.respond("acceptance/counted.msg", count=1)


@stateless
@route("mail-chat-insistently@(host)")
def INSISTENT(message: MailRequest, host: str):
    message.respond("acceptance/counted.msg", count=1, even_to_automatic=True)


@stateless
@route("mail-chat-disguised@(host)")
def DISGUISED(message: MailRequest, host: str):
    message.respond("acceptance/counted.msg", count=1, headers={"Auto-Submitted": "no"})
