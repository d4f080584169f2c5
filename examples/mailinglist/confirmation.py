"""Makes sure that who wants something is who gets the mail: by an address told to them alone.

The address holds a token that is good once and in one conversation: of one person, about one
list, in the state that says what is confirmed, for as long as that lasts.
"""

from __future__ import annotations

import secrets

from mailapp.request import MailRequest

from .conf import list_settings
from .models import MailingList

TOKEN = "[0-9a-f]{24}"  # noqa: S105 - what a route captures; 96 bits, in hex since case is lost


def ask(message: MailRequest, mailing_list: MailingList, template: str) -> None:
    """Mail a new address to confirm at; an earlier one is good no more."""
    token = secrets.token_hex(12)
    message.data["token"] = token
    address = mailing_list.address_to(f"confirm-{token}")
    message.respond(
        template,
        author=address,
        reply_to=address,
        even_suppressed=True,
        mailing_list=mailing_list,
        address=address,
        hours=list_settings().CONFIRM_HOURS,
    )


def redeem(message: MailRequest, token: str) -> bool:
    """Say whether this is the token that the person was told; it is good no more."""
    if not token or not secrets.compare_digest(token, message.data.get("token", "")):
        return False
    del message.data["token"]
    return True
