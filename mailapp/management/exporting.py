"""Finds the mail to export, in pieces that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q, QuerySet

from mailapp.models import Delivery, Message

_MAILS_AT_ONCE = 50


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which mail; what is empty does not matter."""

    queue: str = ""
    status: str = ""
    search: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def messages(self) -> QuerySet[Message]:
        """Return the messages, in order of arrival."""
        found = Message.objects.order_by("pk")
        if self.queue or self.status:
            found = found.filter(pk__in=self.deliveries().values("message"))
        if self.search:
            found = found.filter(_mentions(self.search))
        if self.since:
            found = found.filter(created_at__gte=self.since)
        if self.until:
            found = found.filter(created_at__lt=self.until)
        return found

    def deliveries(self) -> QuerySet[Delivery]:
        """Return the deliveries by which a message is found."""
        found = Delivery.objects.order_by("pk")
        if self.queue:
            found = found.filter(queue=self.queue)
        if self.status:
            found = found.filter(status=self.status)
        return found

    def in_pieces(self) -> Iterator[Message]:
        """Yield each message that is there by then, with its bytes; no transaction stays open."""
        last = 0
        while some := list(self._after(last)):
            yield from some
            last = some[-1].pk

    def _after(self, key: int) -> QuerySet[Message]:
        return self.messages().filter(pk__gt=key).select_related("raw_message")[:_MAILS_AT_ONCE]


def _mentions(text: str) -> Q:
    to = Delivery.objects.filter(recipient__icontains=text)
    return (
        Q(subject__icontains=text)
        | Q(author__icontains=text)
        | Q(sender__icontains=text)
        | Q(message_id__icontains=text)
        | Q(pk__in=to.values("message"))
    )
