"""What an operator does to many deliveries: in slices, since nobody else can write meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from django.db import transaction

from mailapp import wakeup
from mailapp.models import Delivery, DeliveryQuerySet

_SLICE = 500

_DO: dict[str, Callable[[DeliveryQuerySet, str], int]] = {
    "retry": lambda rows, reason: rows.retry(),
    "hold": DeliveryQuerySet.hold,
    "release": lambda rows, reason: rows.release(),
    "discard": DeliveryQuerySet.discard,
}


def act(
    deliveries: DeliveryQuerySet,
    verb: str,
    reason: str,
    *,
    most: int | None = None,
    log: Callable[[list[Delivery]], None] = lambda rows: None,
) -> int:
    """Retry, hold, release or discard those that are open to it, in order of arrival.

    Each slice is committed with what `log` writes of its rows. Return how many they were.
    """
    ids = list(deliveries.open_to(verb).order_by("id").values_list("id", flat=True)[:most])
    slices = (ids[at : at + _SLICE] for at in range(0, len(ids), _SLICE))
    return sum(_act_on(slice_, verb, reason, log) for slice_ in slices)


def _act_on(
    ids: Sequence[int], verb: str, reason: str, log: Callable[[list[Delivery]], None]
) -> int:
    with transaction.atomic():
        open_rows = Delivery.objects.filter(id__in=ids).open_to(verb)
        rows = list(open_rows.select_for_update(no_key=True).order_by("id"))
        _DO[verb](open_rows, reason)
        log(rows)
        for queue in {row.held_from_id or row.queue_id for row in rows}:
            wakeup.notify(queue)
    return len(rows)
