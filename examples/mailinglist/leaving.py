"""Takes people off a list who click in a mail of it."""

from __future__ import annotations

from typing import Any

from .models import MailingList


def take_off(list_address: str, address: str, **kwargs: Any) -> None:
    """Do so at once; their conversation learns of it with their next mail."""
    if mailing_list := MailingList.objects.at(list_address):
        mailing_list.unsubscribe(address)
