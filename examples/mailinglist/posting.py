"""Which mail must not get to a list, or get an answer from it."""

from __future__ import annotations

from mailapp.request import MailRequest

from .models import MailingList


def nuisance(message: MailRequest) -> str:
    """Say why a mail must get neither an answer nor to a list; "" for that of a person."""
    if mailing_list := MailingList.objects.at(message.recipient):
        carried = [value for name, value in message.headers if name.lower() == "list-id"]
        if any(value.endswith(mailing_list.mail.list_id) for value in carried):
            return "Dropped: it came from this list"
    if message.is_automatic:
        return "Dropped: a machine sent it"
    if MailingList.objects.at(message.sender):
        return "Dropped: its sender is a list"
    return ""
