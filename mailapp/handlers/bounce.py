"""Notes on our own deliveries what bounces say of them, and sends those of forwarded mail on."""

from __future__ import annotations

import logging

from mailapp import returnpath, returns
from mailapp.mime import visible
from mailapp.request import MailRequest
from mailapp.routing import accepts, bounces, route, stateless

logger = logging.getLogger(__name__)


@accepts
def is_ours(local: str, host: str) -> bool:
    """Have mail to a return path refused at once, unless we made it."""
    return returns.is_ours(f"{local}@{host}")


@stateless
@route("(local)@(host)", local=returnpath.LOCAL_PART)
def RETURNED(message: MailRequest, local: str, host: str) -> None:
    message.note = returns.take(message)


@bounces
@route("(anything)@(host)", anything=".+")
def BOUNCE(message: MailRequest, anything: str, host: str) -> None:
    if message.bounce is None or returnpath.delivery_of(message.recipient) is not None:
        return
    for delivery in returns.record(message.bounce):
        logger.info("Delivery %d to %s came back", delivery.pk, visible(delivery.recipient))
