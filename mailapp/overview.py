"""Is it well? What the operator sees first, from a few queries of which none scans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

from django.db import models
from django.db.models import Case, F, OuterRef, Q, QuerySet, Subquery, When
from django.utils import timezone

from mailapp.ages import distance
from mailapp.conf import mail_settings
from mailapp.counting import CAP, CappedCount, capped
from mailapp.models import Delivery, Process, Queue, Status, Timer

LATE = 60  #: seconds that due mail may wait before the operator is told
_FORGOTTEN = timedelta(days=1)  # a process that has been silent for longer is history
_LATEST = 10

_WORKED_BY: dict[str, str] = {
    Queue.Purpose.HANDLERS: Process.Kind.WORKER,
    Queue.Purpose.RELAY: Process.Kind.RELAY,
}


def with_counts(queues: QuerySet[Queue]) -> QuerySet[Any]:
    """Give each queue a capped count for each status, and the time of its oldest due mail."""
    its = Delivery.objects.filter(queue=OuterRef("pk"), due_at__lte=timezone.now())
    # What is queued again has the place of its arrival, and says nothing of how long it waits.
    # It was tried, or an operator or its line held it back, of which the reply tells.
    is_again = Q(due_at=F("created_at")) & (Q(attempts__gt=0) | ~Q(reply=""))
    oldest = its.exclude(is_again).order_by("due_at").values("due_at")[:1]
    names = list(Queue.objects.values_list("name", flat=True))
    counts = {status.value: _count_by_queue(names, status) for status in Status}
    return queues.annotate(**counts, oldest_due=Subquery(oldest))


def _count_by_queue(names: list[str], status: Status) -> Case:
    # With the name spelt out PostgreSQL knows which counts are small. With a reference to the
    # outer row it read a million deliveries to find that an empty queue has none done.
    return Case(
        *(
            When(pk=name, then=CappedCount(Delivery.objects.filter(queue=name, status=status)))
            for name in names
        ),
        default=0,
    )


class Problem(NamedTuple):
    """A sentence for the operator, and the row, or the rows of a model, that it is about."""

    text: str
    about: models.Model | type[models.Model]
    narrowed: Mapping[str, str] = {}  #: which rows of the model


@dataclass(frozen=True)
class Overview:
    """The queues, the processes, the last failures, and what of it is not well."""

    queues: list[Any]
    processes: list[Process]
    failures: list[Delivery]
    held_timers: int

    @classmethod
    def now(cls) -> Overview:
        known = Process.objects.filter(stopped_at=None)
        return cls(
            list(with_counts(Queue.objects.all())),
            list(known.filter(heartbeat_at__gte=timezone.now() - _FORGOTTEN)),
            latest_failures(),
            Timer.objects.held().order_by()[: CAP + 1].count(),
        )

    def problems(self) -> Iterator[Problem]:
        """What an operator should look at."""
        alive = [process for process in self.processes if process.is_alive]
        if not any(process.kind == Process.Kind.RECEIVER for process in alive):
            yield Problem("No receiver is alive: no mail is taken in.", Process)
        for queue in self.queues:
            yield from _problems_of(queue, alive)
        if self.held_timers:
            text = f"Timers that failed at every try: {capped(self.held_timers)}."
            yield Problem(text, Timer, {"standing": "held"})
        for process in self.processes:
            if not process.is_alive:
                last = distance(process.heartbeat_at)
                yield Problem(f"The {process} was last heard {last}.", process)


def _problems_of(queue: Any, alive: list[Process]) -> Iterator[Problem]:
    kind = _worked_by(queue)
    if queue.paused:
        yield Problem(f"The queue {queue} is paused.", queue)
    if kind and not any(each.kind == kind and each.queue in {queue.name, ""} for each in alive):
        yield Problem(f"No {kind} is alive for the queue {queue}.", Process)
    if kind and queue.oldest_due and (timezone.now() - queue.oldest_due).total_seconds() > LATE:
        due = distance(queue.oldest_due)
        yield Problem(f"Mail in the queue {queue} was due {due}.", queue)
    if queue.held:
        yield Problem(
            f"Held in the queue {queue}: {capped(queue.held)}.",
            Delivery,
            {"queue": queue.name, "status": Status.HELD},
        )


def _worked_by(queue: Queue) -> str | None:
    if queue.purpose == Queue.Purpose.HANDLERS and mail_settings().ENGINE != "local":
        return Process.Kind.SWEEPER  # the engine's workers come and go
    return _WORKED_BY.get(queue.purpose)


def latest_failures() -> list[Delivery]:
    """The newest deliveries that failed or are held."""
    failed = Delivery.objects.filter(
        queue__in=Queue.objects.values("name"), status__in=[Status.FAILED, Status.HELD]
    )
    ids = list(failed.values_list("id", flat=True)[:_LATEST])
    return list(Delivery.objects.filter(id__in=ids).select_related("message"))
