"""The Django email backend: `send_mail` anywhere in the project goes to the outbox."""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import parseaddr
from typing import Any

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.db import transaction

from mailapp import composing, outbox
from mailapp.addresses import whole
from mailapp.errors import BadAddress, MailError


class OutboxBackend(BaseEmailBackend):
    """Stores each mail as an outgoing delivery in the caller's transaction.

    Rolled back with it; sent after it. In a handler, stored with the handler's state, and counted
    as an answer where it goes to who wrote.
    """

    def __init__(self, *, fail_silently: bool = False, **options: Any) -> None:
        """With `fail_silently`, mail that cannot be sent, such as to no address, is left out."""
        super().__init__(**options)
        self.fail_silently = fail_silently

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        """Return how many mails were stored: all, or none and the exception."""
        with transaction.atomic():
            return sum(self._post(message) for message in email_messages)

    def _post(self, message: EmailMessage) -> bool:
        recipients = [_address(recipient) for recipient in message.recipients()]
        if not recipients:
            return False
        raw = composing.to_bytes(message.message())
        try:
            outbox.post(
                raw,
                sender=_address(message.from_email),
                recipients=recipients,
                answer_of=outbox.answering(recipients),
            )
        except MailError:
            if not self.fail_silently:
                raise
            return False
        return True


def _address(mailbox: str) -> str:
    """Return the address of `Name <address>`; what is none comes back whole, to be refused."""
    try:
        return whole(mailbox)  # which could be parsed as something else: a:b@example.com
    except BadAddress:
        has_lines = "\r" in mailbox or "\n" in mailbox  # Django sees to that, but not in Bcc
        return mailbox if has_lines else parseaddr(mailbox)[1] or mailbox
