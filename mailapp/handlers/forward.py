"""Forwards all mail at our hosts, as it came, to the relay. While it is on, every address there
is accepted.
"""

from __future__ import annotations

from mailapp.request import MailRequest
from mailapp.routing import route, stateless

default_enabled = False


@stateless
@route("(anything)@(host)", anything=".+")
def FORWARD(message: MailRequest, anything: str, host: str) -> None:
    message.forward(message.recipient)
