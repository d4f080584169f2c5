"""Mail that was stored though its sender may not know, so that its retry is recognised."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Self

from django.db import models
from django.utils import timezone

from mailapp.addresses import fold

from .message import Message


class UnheardQuerySet(models.QuerySet["Unheard"]):
    def note(self, messages: Sequence[int]) -> None:
        """Remember each recipient of messages whose 250 was perhaps not heard."""
        rows = Message.objects.filter(pk__in=messages).select_related("raw_message")
        Unheard.objects.using(self.db).bulk_create(
            [
                Unheard(message=message, digest=digest)
                for message in rows.prefetch_related("deliveries")
                for digest in digests(
                    message.raw_message.chunks(),
                    message.sender,
                    [delivery.recipient for delivery in message.deliveries.all()],
                ).values()
            ],
            ignore_conflicts=True,
        )

    def remember(self, marks: Iterable[tuple[str, int]]) -> None:
        """Note messages by digests; raise IntegrityError if one of these is noted already."""
        rows = [Unheard(digest=digest, message_id=message) for digest, message in marks]
        Unheard.objects.using(self.db).bulk_create(rows)

    def known(self, marks: Iterable[str]) -> set[str]:
        """Those of the digests that are noted."""
        return set(self.filter(digest__in=list(marks)).values_list("digest", flat=True))

    def drop(self, marks: Iterable[str]) -> None:
        """Forget digests that nobody will find again."""
        self.filter(digest__in=list(marks)).delete()

    def since(self, moment: datetime) -> Self:
        """What was noted from then on."""
        return self.filter(created_at__gte=moment)


class Unheard(models.Model):
    """One recipient of a stored mail whose sender may try again."""

    digest = models.CharField(max_length=64, unique=True)
    message = models.ForeignKey(Message, on_delete=models.CASCADE, related_name="+")
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    objects = UnheardQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "unheard"

    def __str__(self) -> str:
        return self.digest


def digests(content: Iterable[bytes], sender: str, recipients: Sequence[str]) -> dict[str, str]:
    """Return for each recipient what tells this mail from any other."""
    whole = hashlib.sha256()
    for chunk in content:
        whole.update(chunk)
    return {
        recipient: hashlib.sha256(
            b"\0".join([fold(sender).encode(), fold(recipient).encode(), whole.digest()])
        ).hexdigest()
        for recipient in recipients
    }
