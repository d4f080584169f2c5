"""What comes back to a return path that we made: it names the delivery, or who wrote to us."""

from __future__ import annotations

from mailapp import bounces, dsn, returnpath
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
        return _note(key, mail)
    sender = returnpath.sender_of(mail.recipient)
    if not sender or mail.sender:
        return "Dropped: it is no bounce of a mail that we forwarded of late"
    mail.forward(sender)
    return f"Sent on to {sender}"


def _note(key: int, mail: MailRequest) -> str:
    delivery = Delivery.objects.filter(pk=key, queue=OUTGOING).first()
    if delivery is None:
        return f"Delivery {key} is kept no longer"
    report = _report(mail)
    if report is None or not dsn.note(delivery, report):
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
