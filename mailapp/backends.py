"""The Django email backend: `send_mail` anywhere in the project goes to the outbox."""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import parseaddr

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.db import transaction

from mailapp import mime, outbox


class OutboxBackend(BaseEmailBackend):
    """Stores each mail as an outgoing delivery in the caller's transaction.

    Rolled back with it; sent after it. In a handler, stored with the handler's state.
    """

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        """Return how many mails were stored: all, or none and the exception."""
        with transaction.atomic():
            return sum(self._post(message) for message in email_messages)

    def _post(self, message: EmailMessage) -> bool:
        recipients = [parseaddr(recipient)[1] for recipient in message.recipients()]
        if not recipients:
            return False
        outbox.post(
            mime.to_bytes(message.message()),
            sender=parseaddr(message.from_email)[1],
            recipients=recipients,
        )
        return True
