"""A post to a list, on its way to every subscriber as one stored message."""

from __future__ import annotations

from mailapp.request import MailRequest

from .models import MailingList


def distribute(message: MailRequest, mailing_list: MailingList) -> None:
    """Send a post to all subscribers: its bytes as they came, below the headers of a list."""
    message.forward(
        mailing_list.readers(),
        sender=mailing_list.address_to("bounces"),
        headers=list_headers(mailing_list),
    )


def list_headers(mailing_list: MailingList) -> list[tuple[str, str]]:
    """The header fields of RFC 2369 and RFC 2919, and one that keeps other machines quiet."""
    return [
        ("List-Id", list_id(mailing_list)),
        ("List-Post", f"<mailto:{mailing_list.address}>"),
        ("List-Help", f"<mailto:{mailing_list.address_to('help')}>"),
        ("List-Subscribe", f"<mailto:{mailing_list.address_to('subscribe')}>"),
        ("List-Unsubscribe", f"<mailto:{mailing_list.address_to('unsubscribe')}>"),
        ("Precedence", "list"),
    ]


def list_id(mailing_list: MailingList) -> str:
    """The name of a list among all lists (RFC 2919)."""
    return f"<{mailing_list.name}.{mailing_list.host}>"


def nuisance(message: MailRequest) -> str:
    """Say why a mail must get neither an answer nor to a list; "" for that of a person."""
    if mailing_list := MailingList.objects.at(message.recipient):
        carried = [value for name, value in message.headers if name.lower() == "list-id"]
        if any(value.endswith(list_id(mailing_list)) for value in carried):
            return "Dropped: it came from this list"
    if message.is_automatic:
        return "Dropped: a machine sent it"
    if MailingList.objects.at(message.sender):
        return "Dropped: its sender is a list"
    return ""
