"""Forwards all mail at our hosts, as it came, to the relay. While it is on, every address there
is accepted, unless it could mean another one to the smart host, such as a%b@HOST.
"""

from __future__ import annotations

from mailapp.request import MailRequest
from mailapp.routing import route, stateless

default_enabled = False


@stateless
@route("(anyone)@(host)", anyone='[^%!@"]+')
def FORWARD(message: MailRequest, anyone: str, host: str) -> None:
    message.forward(message.recipient)
