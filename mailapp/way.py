"""A line in the log for each step on the way of a mail, all of them under its number.

What a handler sends goes by the number of the mail that it had, so that one search finds it all.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from mailapp.amounts import amount
from mailapp.conf import mail_settings
from mailapp.models import Delivery, NewMail, Outcome, Status

logger = logging.getLogger(__name__)

_LEVEL = logging.INFO
_SHOWN = 10  # recipients; there may be hundreds


class Handling(NamedTuple):
    """By whom a mail was handled, and how its conversation moved."""

    handler: str
    from_state: str = ""  #: "" when no function with a state took it
    to_state: str = ""


def accepted(key: int, mail: NewMail) -> None:
    """Say that a mail from outside was stored, and under which number."""
    if logger.isEnabledFor(_LEVEL):
        shown = ", ".join(f"<{recipient}>" for recipient in mail.recipients[:_SHOWN])
        more = len(mail.recipients) - _SHOWN
        recipients = f"{shown} and {more} more" if more > 0 else shown
        _say(
            key,
            "accepted",
            f"from <{mail.sender}> for {recipients}: {amount(mail.size, 'octet')} "
            f"by {mail.protocol} from {mail.peer or 'a Unix socket'}",
            sender=mail.sender,
            recipients=list(mail.recipients),
            octets=mail.size,
            protocol=mail.protocol,
            peer=mail.peer,
        )


def handled(delivery: Delivery, outcome: Outcome, handling: Handling | None = None) -> None:
    """Say how a try of the handlers ended, once that is committed."""
    if logger.isEnabledFor(_LEVEL):
        step = "handled" if outcome.status == Status.DONE else str(outcome.status)
        by = _by(handling) if handling else ""
        _say(
            delivery.message_id,
            step,
            f"for <{delivery.recipient}>{by}{_because(outcome)}",
            delivery=delivery.pk,
            recipient=delivery.recipient,
            reply=outcome.reply,
            **(handling._asdict() if handling else {}),
        )


def sent(delivery: Delivery, outcome: Outcome) -> None:
    """Say how a try of the relay ended, once that is committed."""
    if logger.isEnabledFor(_LEVEL):
        step = "sent" if outcome.status == Status.DONE else str(outcome.status)
        cause: int | None = getattr(delivery, "cause_message", None)
        what = f"what it caused, mail {delivery.message_id}, " if cause else ""
        _say(
            cause or delivery.message_id,
            step,
            f"{what}to <{delivery.recipient}>{_because(outcome)}",
            caused=delivery.message_id if cause else None,
            delivery=delivery.pk,
            recipient=delivery.recipient,
            reply=outcome.reply,
        )


def _by(handling: Handling) -> str:
    moved = f", {handling.from_state} -> {handling.to_state}" if handling.from_state else ""
    return f" by {handling.handler}{moved}"


def _because(outcome: Outcome) -> str:
    return f": {outcome.reply}" if outcome.reply else ""


def _say(mail: int, step: str, text: str, **facts: Any) -> None:
    # Not by `logger.info`, which looks for its caller: half of the time, for each mail.
    said = f"mail {mail} {step} {text}"
    record = logging.LogRecord(logger.name, _LEVEL, __file__, 0, said, None, None)
    admin = mail_settings().ADMIN_URL
    url = {"url": f"{admin}mailapp/message/{mail}/change/"} if admin else {}
    record.mail = {"mail": mail, "step": step, **facts, **url}
    logger.handle(record)
