"""Deliveries: what is due, who has claimed it, and how each try ended."""

from __future__ import annotations

import contextlib
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from typing import Any, Self

from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Exists, F, OuterRef, Q
from django.db.models.functions import Coalesce
from django.utils import timezone

from mailapp import returnpath, turns, unsubscribing
from mailapp.addresses import fold, split
from mailapp.amounts import amount
from mailapp.conf import mail_settings
from mailapp.errors import ClaimLost
from mailapp.mime import visible

from .claiming import Claims, Due, Ending
from .handler import Handler
from .insert import insert
from .message import Message
from .outcome import FINAL, OPERATOR_MAY, Outcome, Status, Taken
from .process import Process, oldest_heartbeat
from .queue import Queue
from .reading import read

# Without what the claim itself has written, which would have to be converted again.
_CLAIMED = """\
SELECT delivery.id, delivery.message_id, delivery.queue_id, delivery.recipient, delivery.person,
    delivery.status, delivery.attempts, delivery.attempts_before, delivery.created_at,
    delivery.due_at, delivery.claimed_by_id, delivery.handler_id, delivery.held_from_id,
    delivery.reply, cause.message_id AS cause_message
FROM mailapp_delivery AS delivery
JOIN mailapp_message AS message ON message.id = delivery.message_id
LEFT JOIN mailapp_delivery AS cause ON cause.id = message.cause_id
WHERE delivery.id IN ({ids})
"""
_SENT = Ending(Status.DONE, due_at=None, handler=None)

_ATTEMPT_COLUMNS = (
    "delivery_id",
    "number",
    "process_id",
    "started_at",
    "ended_at",
    "outcome",
    "reply",
    "error",
)


def _attempt_row(
    delivery: Delivery, outcome: Outcome, connection: BaseDatabaseWrapper
) -> tuple[Any, ...]:
    stamp = connection.ops.adapt_datetimefield_value
    return (
        delivery.pk,
        delivery.attempts,
        delivery.claimed_by_id,
        stamp(outcome.started_at),
        stamp(outcome.ended_at),
        str(outcome.status),
        outcome.reply,
        outcome.error,
    )


def _unended(delivery: Delivery, idle: Process | None) -> dict[str, str]:
    """Note of a try that nobody ended whether it was lost: it may have ended its process.

    What a process that lives could not end the database broke off. Where that happens at every
    try, the mail may be what brings the database down, and so is lost, too.
    """
    if idle is None or delivery.claimed_by_id != idle.pk:
        return {"outcome": Attempt.LOST, "reply": _lost_reply(delivery.claimed_by)}
    few = delivery.tries <= len(mail_settings().RETRY_SECONDS)
    outcome = Status.QUEUED if few else Attempt.LOST
    return {"outcome": outcome, "reply": "The database went away during this try."}


def _lost_reply(process: Process | None) -> str:
    ending = process.ending if process else ""
    return "The process ended before this try did" + (f": {ending}" if ending else ".")


def _expired() -> Q:
    keep, now = mail_settings().KEEP, timezone.now()
    ends = {status: now - timedelta(days=keep[status]) for status in FINAL if keep.get(status)}
    return reduce(or_, (_ended_before(at, status) for status, at in ends.items()), Q(pk__in=[]))


def _ended_before(moment: datetime, status: Status) -> Q:
    tried_since = Attempt.objects.filter(delivery=OuterRef("pk"), ended_at__gte=moment)
    return Q(~Exists(tried_since), status=status, created_at__lt=moment)


class DeliveryQuerySet(models.QuerySet["Delivery"]):
    def due(self, now: datetime | None = None) -> Self:
        """Deliveries whose time has come, in order of arrival."""
        return self.filter(due_at__lte=now or timezone.now()).order_by("due_at", "id")

    def claimed(self) -> Self:
        # The status, too, or SQLite without statistics would read all that a queue ever held.
        return self.filter(status=Status.CLAIMED, claim__isnull=False)

    def expired(self) -> Self:
        """Deliveries that `KEEP` keeps no longer, so many days after their last try."""
        return self.filter(_expired())

    def unexpired(self) -> Self:
        return self.exclude(_expired())

    def of_address(self, address: str) -> Self:
        """Deliveries to this address, and of what this person wrote."""
        person = fold(address)
        return self.filter(Q(recipient__in=[address, person]) | Q(person=person))

    def claim(
        self,
        queue: str,
        process: Process,
        limit: int,
        *,
        with_bytes: bool = False,
        suspects_alone: bool = False,
    ) -> list[Delivery]:
        """Take up to `limit` due deliveries for `process` and count the attempt.

        Committed before it returns. Claims of one queue are made one at a time (by a lock
        on its row), so that no person's mail is ever with two workers. They come with their
        messages, with the bytes of these if wanted, and with `cause_message`, the id of the
        message whose handler sent this one.

        With `suspects_alone` a delivery whose last try ended with its process comes with no other:
        it may have ended it, and what it is claimed with must not be lost with it again and again.
        """
        now, token, claims = timezone.now(), uuid.uuid4(), Claims(self.db)
        if not claims.any_due(queue, now):
            return []  # without a write transaction, which would keep others waiting
        with turns.atomic(self.db):
            due: Sequence[Due] = claims.due(queue, now, limit) if claims.lock_queue(queue) else []
            ids = [each.id for each in (claims.innocent(due) if suspects_alone else due)]
            if not ids:
                return []
            claimed = claims.claim(ids, token, process.pk, now)
        if not claimed:  # an operator was quicker, and others may wait
            return self.claim(
                queue, process, limit, with_bytes=with_bytes, suspects_alone=suspects_alone
            )
        rows = read(self, _CLAIMED, claimed)
        keys = {row.message_id for row in rows.values()}
        messages = Message.objects.using(self.db).read(keys, with_bytes=with_bytes)
        ours = [rows[id] for id in claimed if id in rows and rows[id].message_id in messages]
        for row in ours:  # without what was deleted meanwhile
            row.claim, row.claimed_at = token, now
            row.message = messages[row.message_id]
        return ours

    def count_claimable(self, queue: str, most: int) -> int:
        """Count, up to `most`, what could be claimed now: not of people with mail in hand."""
        return len(Claims(self.db).due(queue, timezone.now(), most))

    def settle(self, outcomes: Mapping[Delivery, Outcome]) -> None:
        """Write how claimed deliveries ended, with one Attempt each, in the caller's transaction.

        Raise ClaimLost, and change nothing, if any of them is no longer ours.
        """
        if outcomes:
            self.keep_claims(outcomes)
            self._settle(outcomes)

    def keep_claims(self, claimed: Iterable[Delivery]) -> None:
        """Raise ClaimLost, in the caller's transaction, if any of them is no longer ours."""
        # Before the attempts: whoever releases a claim locks its row first, too.
        claims = {delivery.id: delivery.claim for delivery in claimed}
        if lost := Claims(self.db).lock(claims):
            raise ClaimLost(f"{lost} of {amount(len(claims), 'delivery', 'deliveries')}")

    def _settle(self, outcomes: Mapping[Delivery, Outcome]) -> None:
        now = timezone.now()
        alike: dict[Ending, list[int]] = defaultdict(list)
        for delivery, outcome in outcomes.items():
            alike[outcome.ending(now)].append(delivery.id)
        insert(Attempt, _ATTEMPT_COLUMNS, self.db).rows(
            [
                _attempt_row(delivery, outcome, connections[self.db])
                for delivery, outcome in outcomes.items()
            ]
        )
        for ending, ids in alike.items():
            Claims(self.db).settle(ids, ending)

    def give_back(self, claimed: Sequence[Delivery]) -> int:
        """Queue again what was claimed but never tried; the attempt does not count."""
        if not claimed:
            return 0
        untried = self.filter(id__in=[row.id for row in claimed])
        return untried.filter(claim__in={row.claim for row in claimed})._queue_again(
            attempts=F("attempts") - 1
        )

    def release_dead(self, idle: Process | None = None) -> int:
        """Give back what dead processes had claimed, with a lost Attempt each.

        And what `idle` had: a live process that has nothing in hand, whatever the rows say. Its
        tries count as lost only when they are more than those of a handler that fails.
        """
        if not Claims(self.db).any_orphan(idle.pk if idle else None, oldest_heartbeat()):
            return 0
        orphans = Q(claimed_by=None) | Q(claimed_by=idle) | Q(claimed_by__in=Process.objects.dead())
        return self.claimed().filter(orphans)._lose(idle)

    def next_due(self, queue: str, since: datetime) -> datetime | None:
        """When the next delivery comes due that was not due at `since`; None if none will."""
        return Claims(self.db).next_due(queue, since)

    def _lose(self, idle: Process | None = None) -> int:
        now = timezone.now()
        with turns.atomic(self.db):
            rows = self.select_related("claimed_by")
            lost = list(rows.select_for_update(no_key=True, of=("self",), skip_locked=True))
            Attempt.objects.using(self.db).bulk_create(
                Attempt(
                    delivery=delivery,
                    number=delivery.attempts,
                    process_id=delivery.claimed_by_id,
                    started_at=delivery.claimed_at or now,
                    ended_at=now,
                    **_unended(delivery, idle),
                )
                for delivery in lost
            )
            ids = [delivery.id for delivery in lost]
            return Delivery.objects.using(self.db).filter(id__in=ids)._queue_again()

    def settle_taken(self, taken: Iterable[Taken]) -> int:
        """Mark as done what dead processes had sent, unless another try has begun. Return how many.

        Their claims may still be there, or released by others, who noted the tries as lost.
        """
        tries = {(each.delivery, each.claimed_at): each for each in taken}
        noted = self.filter(id__in={id for id, _ in tries})
        with turns.atomic(self.db):
            list(noted.order_by("id").select_for_update(no_key=True).values_list("id"))
            noted.claimed().filter(claimed_at__in={moment for _, moment in tries})._lose()
            lost = noted.filter(status=Status.QUEUED)._lost_tries()
            sent = [each for each in lost if (each.delivery_id, each.started_at) in tries]
            for attempt in sent:
                attempt.mark_sent(tries[attempt.delivery_id, attempt.started_at])
            if sent:
                Claims(self.db).settle([each.delivery_id for each in sent], _SENT)
        return len(sent)

    def _lost_tries(self) -> models.QuerySet[Attempt]:
        """The last tries, of those deliveries whose last try was lost."""
        tries = Attempt.objects.using(self.db).filter(delivery__in=self)
        return tries.filter(number=F("delivery__attempts"), outcome=Attempt.LOST)

    def _queue_again(self, **columns: Any) -> int:
        return self.update(
            **columns,
            status=Status.QUEUED,
            due_at=F("created_at"),
            claim=None,
            claimed_by=None,
            claimed_at=None,
            queue=Coalesce("held_from", "queue"),
            held_from=None,
        )

    def mark_bounced(self, reply: str) -> int:
        """Note that what was sent came back: deliveries that were done have failed."""
        return self.filter(status=Status.DONE).update(status=Status.FAILED, reply=reply)

    def open_to(self, verb: str) -> Self:
        """Deliveries that an operator may retry, hold, release or discard."""
        return self.filter(status__in=OPERATOR_MAY[verb])

    def try_now(self) -> int:
        """Make deferred deliveries due now, in order of arrival."""
        return self.filter(status=Status.DEFERRED)._queue_again()

    @contextlib.contextmanager
    def _leaving_their_lines(self) -> Iterator[None]:
        """Let those go on who wait for these deliveries, whatever becomes of these."""
        from .place import Place

        waited_for = list(self.filter(place__isnull=False).values_list("id", flat=True))
        yield
        Place.objects.using(self.db).leave(waited_for)

    def retry(self) -> int:
        """Make held, failed or deferred deliveries due now, in the queue they came from."""
        with self._leaving_their_lines():
            return self.open_to("retry")._queue_again(attempts_before=F("attempts"))

    def hold(self, reason: str) -> int:
        """Take queued or deferred deliveries out of the work until `release`."""
        with self._leaving_their_lines():
            return self.open_to("hold").update(
                status=Status.HELD, due_at=None, reply=reason, held_from=F("queue")
            )

    def release(self) -> int:
        """Queue held deliveries again."""
        return self.open_to("release")._queue_again()

    def discard(self, reason: str) -> int:
        """Give up deliveries that are not done; they are kept as failed, with the reason."""
        with self._leaving_their_lines():
            return self.open_to("discard").update(status=Status.FAILED, due_at=None, reply=reason)


class Delivery(models.Model):
    """One message for one recipient.

    QUEUED -> CLAIMED -> DONE | FAILED | DEFERRED | HELD
    DEFERRED -> CLAIMED                      CLAIMED -> QUEUED (its worker died)
    HELD | FAILED | DEFERRED -> QUEUED       QUEUED | DEFERRED -> HELD (by an operator, or a limit)
    QUEUED | DEFERRED | HELD -> FAILED (discarded)      DONE -> FAILED (it bounced)
    """

    Status = Status

    message = models.ForeignKey(Message, on_delete=models.CASCADE, related_name="deliveries")
    queue = models.ForeignKey(
        Queue, on_delete=models.PROTECT, related_name="deliveries", db_index=False
    )
    recipient = models.CharField(max_length=320)
    person = models.CharField(
        max_length=320, blank=True, help_text="Whose mail is worked one at a time, in order."
    )
    status = models.CharField(max_length=10, choices=Status, default=Status.QUEUED)
    attempts = models.PositiveIntegerField(default=0)
    attempts_before = models.PositiveIntegerField(
        default=0, editable=False, help_text="Attempts made before an operator asked to retry."
    )
    created_at = models.DateTimeField(default=timezone.now)
    due_at = models.DateTimeField(
        null=True, blank=True, default=timezone.now, help_text="Set while it waits for a worker."
    )
    claim = models.UUIDField(null=True, blank=True, editable=False)
    claimed_by = models.ForeignKey(
        Process, on_delete=models.SET_NULL, null=True, blank=True, db_index=False
    )
    claimed_at = models.DateTimeField(null=True, blank=True)
    handler = models.ForeignKey(
        Handler, on_delete=models.SET_NULL, null=True, blank=True, db_index=False
    )
    held_from = models.ForeignKey(
        Queue, on_delete=models.PROTECT, null=True, blank=True, db_index=False, related_name="+"
    )
    reply = models.TextField(blank=True, help_text="The last SMTP reply or reason.")

    objects = DeliveryQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "deliveries"
        permissions = [
            ("retry_delivery", "Can retry delivery"),
            ("hold_delivery", "Can hold and release delivery"),
            ("discard_delivery", "Can discard delivery"),
        ]
        indexes = [
            # SQLite proves "IS NOT NULL" from a comparison; it could not prove "status IN".
            models.Index(
                fields=["queue", "due_at", "id"],
                condition=Q(due_at__isnull=False),
                name="mailapp_due",
            ),
            models.Index(
                fields=["queue", "person"],
                condition=Q(claim__isnull=False),
                name="mailapp_claimed",
            ),
            models.Index(
                fields=["claimed_by"],
                condition=Q(claimed_by__isnull=False),
                name="mailapp_by_claimant",  # or to remove a process would read the table
            ),
            models.Index(fields=["queue", "status", "id"], name="mailapp_by_status"),
            models.Index(fields=["person", "id"], name="mailapp_by_person"),
            models.Index(fields=["recipient", "id"], name="mailapp_by_recipient"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=["queued", "deferred"], due_at__isnull=False)
                | (~Q(status__in=["queued", "deferred"]) & Q(due_at__isnull=True)),
                name="mailapp_due_while_waiting",
            ),
            models.CheckConstraint(
                condition=Q(status="claimed", claim__isnull=False)
                | (~Q(status="claimed") & Q(claim__isnull=True)),
                name="mailapp_claim_while_claimed",
            ),
        ]

    def __str__(self) -> str:
        return f"{visible(self.recipient)} ({self.status})"

    @property
    def tries(self) -> int:
        """How often it was tried since an operator last asked for it."""
        return self.attempts - self.attempts_before

    @property
    def return_path(self) -> str:
        """The envelope sender that it is sent under: with VERP, one that names it."""
        message = self.message
        if not message.verp:
            return message.sender
        hosts, domain = mail_settings().HOSTS, split(message.sender)[1]
        return returnpath.of_delivery(self.pk, domain if domain in hosts else hosts[0])

    def as_sent(self, raw: bytes) -> bytes:
        """Return the bytes of the message as this recipient gets them."""
        list_address = self.message.list_address
        if not list_address:
            return raw
        wish = unsubscribing.Wish(list_address, self.recipient)
        return unsubscribing.fields(wish) + raw

    def defer_untried(self, seconds: float, reason: str) -> None:
        """Give it back for a while; the attempt does not count. Raise ClaimLost."""
        mine = Delivery.objects.filter(pk=self.pk, claim=self.claim)
        if not mine.update(
            status=Status.DEFERRED,
            due_at=timezone.now() + timedelta(seconds=seconds),
            attempts=F("attempts") - 1,
            claim=None,
            claimed_by=None,
            claimed_at=None,
            reply=reason,
        ):
            raise ClaimLost(str(self))


class Attempt(models.Model):
    """One try of a delivery: when, by which process, and how it ended."""

    LOST = "lost"
    OUTCOMES = [*((status.value, status.label) for status in Status), (LOST, "Lost")]

    delivery = models.ForeignKey(
        Delivery, on_delete=models.CASCADE, related_name="attempt_set", db_index=False
    )
    number = models.PositiveIntegerField()
    process = models.ForeignKey(Process, on_delete=models.SET_NULL, null=True, blank=True)
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField()
    outcome = models.CharField(max_length=10, choices=OUTCOMES)
    reply = models.TextField(blank=True)
    error = models.TextField(blank=True, help_text="The traceback.")

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["delivery", "number"], name="mailapp_attempt_number")
        ]

    def __str__(self) -> str:
        return f"attempt {self.number}: {self.outcome}"

    def mark_sent(self, taken: Taken) -> None:
        """Say of a try that was lost that the mail was sent all the same."""
        self.outcome, self.reply, self.ended_at = Status.DONE, taken.reply, taken.ended_at
        self.save(update_fields=["outcome", "reply", "ended_at"])

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.ended_at - self.started_at).total_seconds()
