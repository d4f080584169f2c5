"""Logs one line for each mail at our hosts. While it is on, every address there is accepted."""

from __future__ import annotations

import logging

from mailapp.amounts import amount
from mailapp.mime import visible
from mailapp.request import MailRequest
from mailapp.routing import route, stateless

logger = logging.getLogger(__name__)

default_enabled = False


@stateless
@route("(anything)@(host)", anything=".+")
def LOG(message: MailRequest, anything: str, host: str) -> None:
    logger.info(
        "%s -> %s, %s: %s",
        visible(message.sender) or "<>",
        visible(message.recipient),
        amount(message.delivery.message.size, "octet"),
        visible(message.subject),
    )
