"""Addresses that no mail is sent to, since it came back from there or an operator says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Self

from django.core.exceptions import ValidationError
from django.db import connections, models
from django.db.models import Q
from django.utils import timezone

from mailapp import bounces
from mailapp.addresses import fold, whole
from mailapp.conf import mail_settings
from mailapp.errors import BadAddress
from mailapp.mime import visible

from .delivery import Delivery
from .outcome import Status
from .queue import OUTGOING
from .reading import with_ids

# Asked for each batch that goes out; the ORM takes longer to word it than a database to run it.
_ACTIVE = """\
SELECT address FROM mailapp_suppression
WHERE (expires_at IS NULL OR expires_at > %s) AND address IN ({ids})
"""


class SuppressionQuerySet(models.QuerySet["Suppression"]):
    def active(self) -> Self:
        return self.filter(Q(expires_at=None) | Q(expires_at__gt=timezone.now()))

    def expired(self) -> Self:
        return self.filter(expires_at__lte=timezone.now())

    def among(self, addresses: Iterable[str]) -> set[str]:
        """Return those of these addresses that nothing is sent to, in lower case."""
        people = list({fold(address) for address in addresses})
        if not people:
            return set()
        connection = connections[self.db]
        now = connection.ops.adapt_datetimefield_value(timezone.now())
        with connection.cursor() as cursor:
            cursor.execute(*with_ids(_ACTIVE, [now], people))
            return {address for (address,) in cursor}

    def is_suppressed(self, address: str) -> bool:
        """Say whether mail to this address would fail without a try."""
        return bool(self.among([address]))

    def of(self, address: str) -> Suppression | None:
        """Return the one by which mail to this address fails, if there is one."""
        return self.active().filter(address=fold(address)).first()

    def lift(self, address: str) -> int:
        """Write to an address again; not where an operator suppressed it."""
        return self.filter(address=fold(address), cause=Suppression.Cause.BOUNCE).delete()[0]

    def note_failures(self, replies: Mapping[Delivery, str]) -> None:
        """Suppress the addresses of failed deliveries that are not worth another mail.

        At once those that are not there by the reply; others after so many failures within
        so many days as the settings say. Only call it for a reply that nobody can have forged.
        """
        about = {row: reply for row, reply in replies.items() if bounces.is_about_address(reply)}
        failures = _recent_failures(about) if about else Counter[str]()
        self._suppress(
            {
                fold(row.recipient): (row, reply)
                for row, reply in about.items()
                if bounces.is_hard(reply)
                or failures[fold(row.recipient)] >= mail_settings().SUPPRESS_AFTER
            }
        )

    def _suppress(self, failed: Mapping[str, tuple[Delivery, str]]) -> None:
        if not failed:
            return
        expires_at = timezone.now() + timedelta(days=mail_settings().SUPPRESS_DAYS)
        self.expired().filter(address__in=failed).delete()
        Suppression.objects.using(self.db).bulk_create(
            [
                Suppression(address=address, reason=reply, delivery=row, expires_at=expires_at)
                for address, (row, reply) in sorted(failed.items(), key=lambda item: item[0])
            ],
            ignore_conflicts=True,
        )


def _recent_failures(replies: Mapping[Delivery, str]) -> Counter[str]:
    """Count what failed of late at each address, for reasons of the address."""
    since = timezone.now() - timedelta(days=mail_settings().SUPPRESS_WITHIN_DAYS)
    failed = Delivery.objects.filter(
        queue=OUTGOING,
        status=Status.FAILED,
        recipient__in={spelling for row in replies for spelling in _spellings(row)},
        created_at__gte=since,
    )
    return Counter(
        fold(recipient)
        for recipient, reply in failed.values_list("recipient", "reply")
        if bounces.is_about_address(reply)
    )


def _spellings(row: Delivery) -> tuple[str, str]:
    return row.recipient, fold(row.recipient)


class Suppression(models.Model):
    """An address that mail fails at without a try, until it expires."""

    class Cause(models.TextChoices):
        BOUNCE = "bounce", "Mail came back"
        OPERATOR = "operator", "By hand"

    address = models.CharField(max_length=320, unique=True, help_text="Kept in lower case.")
    cause = models.CharField(max_length=10, choices=Cause, default=Cause.BOUNCE, editable=False)
    reason = models.TextField(blank=True)
    delivery = models.ForeignKey(
        Delivery,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        editable=False,
        related_name="+",
        help_text="The one that came back.",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Empty: never.")

    objects = SuppressionQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return visible(self.address)

    @property
    def is_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= timezone.now()

    def clean(self) -> None:
        """Write the address as deliveries have it; raise ValidationError for what is none."""
        try:
            self.address = fold(whole(self.address))
        except BadAddress:
            raise ValidationError(
                {"address": "It is no address, such as you@example.com."}
            ) from None
