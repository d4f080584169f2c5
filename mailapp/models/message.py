"""Messages: the raw bytes once, the envelope, the session facts."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Sequence
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple

from django.core.files import File
from django.core.files.storage import storages
from django.db import connections, models
from django.utils import timezone

from mailapp import mime, turns, wakeup
from mailapp.addresses import fold
from mailapp.conf import mail_settings
from mailapp.routing import INCOMING

from .insert import binding_cursor, columns, insert
from .reading import read


class NewMail(NamedTuple):
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
    verp: bool = False  #: each delivery has a return path of its own
    even_suppressed: bool = False  #: goes to suppressed addresses, too
    list_address: str = ""  #: of the list that each copy has a link to leave by
    answer_of: int | None = None  #: id of the Handler that answers the recipient with this
    file: str = ""  #: name in the storage `mail`; `raw` is then only the beginning of the file
    file_size: int = 0

    @property
    def size(self) -> int:
        """Octets of the whole mail."""
        return self.file_size if self.file else len(self.raw)

    def chunks(self) -> Iterator[bytes]:
        """Return all bytes, in pieces."""
        return _chunks(self.file) if self.file else iter([self.raw])


class MessageQuerySet(models.QuerySet["Message"]):
    def read(self, keys: Collection[int], *, with_bytes: bool = False) -> dict[int, Message]:
        """Return messages by key, with their bytes if these are wanted."""
        messages = read(self, "SELECT * FROM mailapp_message WHERE id IN ({ids})", keys)
        if with_bytes:
            for key, stored in RawMessage.objects.using(self.db).read(messages).items():
                messages[key].raw_message = stored
        return messages

    def store(self, mails: Sequence[NewMail]) -> list[int]:
        """Insert mails with their bytes and a queued delivery for each recipient, all or none.

        Return the key of each, and wake who works their queues once it is committed. However
        many mails there are, it takes one statement for each table, on PostgreSQL one in all.
        Large bodies are in the storage `mail`, safe on disk, before any row refers to them.
        """
        if not mails:
            return []
        connection = connections[self.db]
        stamp = connection.ops.adapt_datetimefield_value(timezone.now())
        rows = [_Rows.of(mail) for mail in mails]  # before others have to wait for the transaction
        queues = {mail.queue for mail in mails}
        if connection.vendor == "postgresql":
            return self._store_by_function(stamp, rows, queues)
        with turns.atomic(self.db, savepoint=False):
            keys = self._insert(stamp, rows)
            for queue in queues:
                wakeup.notify(queue)
        return keys

    def _insert(self, stamp: Any, rows: Sequence[_Rows]) -> list[int]:
        from .delivery import Delivery

        using = self.db
        with connections[using].cursor() as cursor:
            keys = insert(Message, _MESSAGE_COLUMNS, using).returning_keys(
                [(stamp, *each.message) for each in rows], cursor=cursor
            )
            insert(RawMessage, _RAW_COLUMNS, using).rows(
                [(key, *each.raw) for key, each in zip(keys, rows, strict=True)], cursor
            )
            insert(Delivery, _DELIVERY_COLUMNS, using).rows(
                [
                    (stamp, stamp, key, *delivery)
                    for key, each in zip(keys, rows, strict=True)
                    for delivery in each.deliveries
                ],
                cursor,
            )
        return keys

    def _store_by_function(
        self, stamp: Any, rows: Sequence[_Rows], queues: Collection[str]
    ) -> list[int]:
        """Do the same by a function in the database, which plans its statements once."""
        deliveries = [
            (number, *delivery)
            for number, each in enumerate(rows, start=1)
            for delivery in each.deliveries
        ]
        with binding_cursor(self.db) as cursor:
            cursor.execute(
                _STORE,
                [
                    stamp,
                    *columns([(*each.message, *each.raw) for each in rows]),
                    *columns(deliveries),
                    [wakeup.channel(queue) for queue in queues],
                ],
            )
            [keys] = cursor.fetchone()
        for queue in queues:
            wakeup.tell_engine(queue)
        return keys


# As migration 0011 declares the function, in the order of the rows below.
_STORE_TYPES = (
    *("text", "integer", "text", "text", "text", "text"),
    *("text", "text", "text", "bigint", "boolean", "boolean", "text", "bytea", "text"),
    *("integer", "text", "text", "text", "text"),
)
_STORE = "SELECT mailapp_store(%s, {})".format(", ".join(f"%b::{kind}[]" for kind in _STORE_TYPES))
_MESSAGE_COLUMNS = (
    "created_at",
    "sender",
    "size",
    "protocol",
    "peer",
    "helo",
    "tls",
    "subject",
    "author",
    "message_id",
    "cause_id",
    "verp",
    "even_suppressed",
    "list_address",
)
_RAW_COLUMNS = ("message_id", "content", "file")
_DELIVERY_COLUMNS = ("created_at", "due_at", "message_id", "queue_id", "person", "recipient")


def keep_large(content: BinaryIO) -> str:
    """Put the bytes of a large mail into the storage `mail`; return its name there."""
    # A name of its own: many storages let the later of two who save at once overwrite the other.
    name = f"{timezone.now():%Y/%m/%d}/mail-{secrets.token_hex(16)}.eml"
    return storages["mail"].save(name, File(content))


def _chunks(name: str) -> Iterator[bytes]:
    with storages["mail"].open(name) as file:
        yield from file.chunks()


class _Rows(NamedTuple):
    """What is written of one mail, but for the keys and the time."""

    message: tuple[Any, ...]
    raw: tuple[bytes | None, str]
    deliveries: Sequence[tuple[str, str, str]]

    @classmethod
    def of(cls, mail: NewMail) -> _Rows:
        return cls(_message_row(mail), _raw_row(mail), list(_delivery_rows(mail)))


def _message_row(mail: NewMail) -> tuple[Any, ...]:
    return (
        mail.sender,
        mail.size,
        mail.protocol,
        mail.peer,
        mail.helo,
        mail.tls,
        *mime.head_columns(mail.raw),
        mail.cause,
        mail.verp,
        mail.even_suppressed,
        mail.list_address,
    )


def _delivery_rows(mail: NewMail) -> Iterator[tuple[str, str, str]]:
    person = fold(mail.sender) if mail.protocol else ""
    for recipient in mail.recipients:
        yield mail.queue, person, recipient


def _raw_row(mail: NewMail) -> tuple[bytes | None, str]:
    if mail.file:
        return None, mail.file
    if len(mail.raw) > mail_settings().INLINE_SIZE:
        return None, keep_large(BytesIO(mail.raw))
    return mail.raw, ""


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
    message_id = models.CharField(max_length=255, blank=True)
    verdict = models.JSONField(null=True, blank=True, help_text="SPF, DKIM and DMARC.")
    cause = models.ForeignKey(
        "mailapp.Delivery",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        db_index=False,
        related_name="effects",
        help_text="The delivery whose handler sent this mail.",
    )
    verp = models.BooleanField(
        "VERP", default=False, help_text="Each delivery has a return path of its own."
    )
    even_suppressed = models.BooleanField(
        default=False, help_text="Goes to suppressed addresses, too."
    )
    list_address = models.CharField(
        max_length=320, blank=True, help_text="Each copy has a link by which to leave this list."
    )

    objects = MessageQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [
            # Only of what we sent: bounces name it. Of all mail it would cost each one that comes
            # in a tenth of its time; to search a million without takes a tenth of a second.
            models.Index(
                fields=["message_id"], condition=models.Q(protocol=""), name="mailapp_sent_id"
            ),
            # Without the many that nothing caused, for which SQLite would rather read the table.
            models.Index(
                fields=["cause"], condition=models.Q(cause__isnull=False), name="mailapp_caused"
            ),
        ]

    def __str__(self) -> str:
        return mime.visible(self.subject) or f"message {self.pk}"

    @property
    def raw(self) -> bytes:
        """The bytes as they came in. A query, and for a large mail a file."""
        return self.raw_message.read()


class RawMessageQuerySet(models.QuerySet["RawMessage"]):
    def read(self, keys: Collection[int]) -> dict[int, RawMessage]:
        """Return the bytes of messages, by the keys of these."""
        return read(self, "SELECT * FROM mailapp_rawmessage WHERE message_id IN ({ids})", keys)


class RawMessage(models.Model):
    """The bytes of a message, apart from it so that lists never load them."""

    message = models.OneToOneField(
        Message, on_delete=models.CASCADE, primary_key=True, related_name="raw_message"
    )
    content = models.BinaryField(null=True)
    file = models.CharField(max_length=255, blank=True, help_text="Its name in storage `mail`.")

    objects = RawMessageQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(
                fields=["file"],
                condition=models.Q(content__isnull=True),
                name="mailapp_raw_file",
            )
        ]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(content__isnull=True, file__gt="")
                | models.Q(content__isnull=False, file=""),
                name="mailapp_raw_in_row_or_file",
            )
        ]

    def __str__(self) -> str:
        return f"bytes of message {self.message_id}"

    def chunks(self) -> Iterator[bytes]:
        """Return all bytes, in pieces."""
        return _chunks(self.file) if self.content is None else iter([bytes(self.content)])

    def read(self) -> bytes:
        """Return the bytes from the row or the storage."""
        if self.content is not None:
            return bytes(self.content)
        with storages["mail"].open(self.file) as file:
            return file.read()
