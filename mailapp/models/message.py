"""Messages: the raw bytes once, the envelope, the session facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

from django.core.files import File
from django.core.files.storage import storages
from django.db import models, transaction
from django.utils import timezone

from mailapp import mime
from mailapp.addresses import fold
from mailapp.conf import mail_settings

from .queue import INCOMING

if TYPE_CHECKING:
    from .delivery import Delivery


@dataclass(frozen=True, kw_only=True)
class NewMail:
    """A mail that is about to be stored: the bytes, the envelope and how it came."""

    raw: bytes
    sender: str  #: `""` is the null sender
    recipients: Sequence[str]
    queue: str = INCOMING
    protocol: str = ""  #: SMTP, ESMTP, ESMTPS, LMTP …; "" when composed here
    peer: str = ""
    helo: str = ""
    tls: str = ""
    cause: int | None = None  #: id of the Delivery whose handler sent this
    file: str = ""  #: name in the storage `mail`; `raw` is then only the beginning of the file
    file_size: int = 0

    @property
    def size(self) -> int:
        """Octets of the whole mail."""
        return self.file_size if self.file else len(self.raw)


class MessageQuerySet(models.QuerySet["Message"]):
    def store(self, mails: Sequence[NewMail]) -> list[Message]:
        """Insert mails with their bytes and a queued delivery for each recipient, all or none.

        One statement for each table however many mails there are. Large bodies are in
        the storage `mail`, safe on disk, before any row refers to them.
        """
        from .delivery import Delivery

        limit = mail_settings().INLINE_SIZE
        with transaction.atomic(using=self.db):
            messages = self.bulk_create([Message.from_mail(mail) for mail in mails])
            RawMessage.objects.using(self.db).bulk_create(
                RawMessage(message=message, file=mail.file or keep_large(BytesIO(mail.raw)))
                if mail.size > limit or mail.file
                else RawMessage(message=message, content=mail.raw)
                for message, mail in zip(messages, mails, strict=True)
            )
            Delivery.objects.using(self.db).bulk_create(
                delivery
                for message, mail in zip(messages, mails, strict=True)
                for delivery in _deliveries(message, mail)
            )
        return messages


def keep_large(content: BinaryIO) -> str:
    """Put the bytes of a large mail into the storage `mail`; return its name there."""
    return storages["mail"].save(timezone.now().strftime("%Y/%m/%d/mail.eml"), File(content))


def _deliveries(message: Message, mail: NewMail) -> list[Delivery]:
    from .delivery import Delivery

    person = fold(mail.sender) if mail.protocol else ""
    return [
        Delivery(
            message=message,
            queue_id=mail.queue,
            recipient=recipient,
            person=person,
            due_at=message.created_at,
            created_at=message.created_at,
        )
        for recipient in mail.recipients
    ]


class Message(models.Model):
    """One mail as it came in or as we composed it. Its bytes never change."""

    created_at = models.DateTimeField(default=timezone.now)
    sender = models.CharField(max_length=320, blank=True, help_text="Empty: the null sender.")
    size = models.PositiveIntegerField(help_text="Octets.")
    protocol = models.CharField(max_length=16, blank=True, help_text="Empty: composed here.")
    peer = models.CharField(max_length=64, blank=True)
    helo = models.CharField(max_length=255, blank=True)
    tls = models.CharField(max_length=64, blank=True)
    subject = models.CharField(max_length=255, blank=True)
    author = models.CharField(max_length=320, blank=True, help_text="The From header.")
    message_id = models.CharField(max_length=255, blank=True, db_index=True)
    verdict = models.JSONField(null=True, blank=True, help_text="SPF, DKIM and DMARC.")
    cause = models.ForeignKey(
        "mailapp.Delivery",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="effects",
        help_text="The delivery whose handler sent this mail.",
    )

    objects = MessageQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.subject or f"message {self.pk}"

    @classmethod
    def from_mail(cls, mail: NewMail) -> Message:
        """Build the row, without saving it."""
        head = mime.head_columns(mail.raw)
        return cls(
            sender=mail.sender,
            size=mail.size,
            protocol=mail.protocol,
            peer=mail.peer,
            helo=mail.helo,
            tls=mail.tls,
            subject=head.subject,
            author=head.author,
            message_id=head.message_id,
            cause_id=mail.cause,
        )

    @property
    def raw(self) -> bytes:
        """The bytes as they came in. A query, and for a large mail a file."""
        return self.raw_message.read()


class RawMessage(models.Model):
    """The bytes of a message, apart from it so that lists never load them."""

    message = models.OneToOneField(
        Message, on_delete=models.CASCADE, primary_key=True, related_name="raw_message"
    )
    content = models.BinaryField(null=True)
    file = models.CharField(max_length=255, blank=True, help_text="Its name in storage `mail`.")

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(content__isnull=True, file__gt="")
                | models.Q(content__isnull=False, file=""),
                name="mailapp_raw_in_row_or_file",
            )
        ]

    def __str__(self) -> str:
        return f"bytes of message {self.message_id}"

    def read(self) -> bytes:
        """Return the bytes from the row or the storage."""
        if self.content is not None:
            return bytes(self.content)
        with storages["mail"].open(self.file) as file:
            return file.read()
