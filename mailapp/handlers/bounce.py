"""Notes on our own deliveries what bounces say of them."""

from __future__ import annotations

import logging

from mailapp import dsn
from mailapp.mime import visible
from mailapp.request import MailRequest
from mailapp.routing import bounces, route

logger = logging.getLogger(__name__)


@bounces
@route("(anything)@(host)", anything=".+")
def BOUNCE(message: MailRequest, anything: str, host: str) -> None:
    if message.bounce is None:
        return
    for delivery in dsn.record(message.bounce):
        logger.info("Delivery %d to %s came back", delivery.pk, visible(delivery.recipient))
