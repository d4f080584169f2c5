"""What comes back of mail that we sent: whose it was is in its return path, or in the bounce."""

from __future__ import annotations

from collections.abc import Iterable

from mailapp import bounces, returnpath
from mailapp.errors import DeliveryInHand
from mailapp.models import OUTGOING, Delivery, Suppression
from mailapp.request import MailRequest

_UNREADABLE = bounces.Report(recipient="", temporary=False, status="5.0.0", diagnostic="Bounced")


def is_ours(address: str) -> bool:
    """Say whether we made this return path, and bounces may still come back to it."""
    return returnpath.delivery_of(address) is not None or bool(returnpath.sender_of(address))


def take(mail: MailRequest) -> str:
    """Note a bounce on the delivery that its recipient names, or send it on to the sender.

    Return what the operator is to know. Raise DeliveryInHand for a delivery that the relay has
    not settled yet.
    """
    if not mail.is_bounce:
        return "Dropped: it is no bounce"
    key = returnpath.delivery_of(mail.recipient)
    if key is not None:
        return _take_for(key, mail)
    sender = returnpath.sender_of(mail.recipient)
    if not sender or mail.sender:
        return "Dropped: it is no bounce of a mail that we forwarded of late"
    mail.forward(sender)
    return f"Sent on to {sender}"


def _take_for(key: int, mail: MailRequest) -> str:
    delivery = Delivery.objects.filter(pk=key, queue=OUTGOING).first()
    if delivery is None:
        return f"Delivery {key} is kept no longer"
    report = _report(mail)
    if report is None or not _note(delivery, report):
        return f"Nothing new of delivery {key}"
    if not report.temporary:
        Suppression.objects.note_failures({delivery: report.reply})
    return f"Delivery {key} came back"


def _report(mail: MailRequest) -> bounces.Report | None:
    """The worst that a bounce says, or that it is one; None for good news.

    It may speak of whom the recipient had forwarded the mail to; the address tells which of ours
    it was.
    """
    if mail.bounce:
        return min(mail.bounce.reports, key=lambda report: report.temporary)
    return None if bounces.says_delivered(mail.parsed) else _UNREADABLE


def record(bounce: bounces.Bounce) -> list[Delivery]:
    """Write what a bounce says on the deliveries it speaks of, and return them.

    They are found by recipient and by the Message-ID of the mail that bounced. What was
    sent becomes failed; of a delay only the reply is noted. Raise DeliveryInHand for one that
    the relay has not settled yet.
    """
    return [
        delivery
        for report in bounce.reports
        for delivery in _deliveries(bounce.message_id, report.recipient)
        if _note(delivery, report)
    ]


def _deliveries(message_id: str, recipient: str) -> Iterable[Delivery]:
    if not message_id:
        return []
    return Delivery.objects.filter(
        queue=OUTGOING,
        message__protocol="",
        message__message_id=message_id[:255],
        recipient__iexact=recipient,
    )


def _note(delivery: Delivery, report: bounces.Report) -> bool:
    """Write what a report says on a delivery that was sent; say whether it was."""
    row = Delivery.objects.filter(pk=delivery.pk)
    if delivery.status == Delivery.Status.CLAIMED:
        raise DeliveryInHand(str(delivery))
    if report.temporary:
        return bool(row.filter(status=Delivery.Status.DONE).update(reply=report.reply))
    return bool(row.mark_bounced(report.reply))
