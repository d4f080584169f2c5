"""Removes what is old: mail with its files, history, processes. In small steps, with rests.

No step holds a lock for long, and each looks again, in its transaction, at what it removes: what
somebody has in hand stays.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from time import monotonic
from typing import Any, NamedTuple, TypeVar

from django.core.files.storage import storages
from django.db import close_old_connections, connection, models
from django.db.models import Exists, OuterRef
from django.utils import timezone

from mailapp import turns
from mailapp.amounts import amount
from mailapp.conf import mail_settings
from mailapp.models import (
    FINAL,
    Answer,
    Attempt,
    Delivery,
    DeliveryQuerySet,
    Duty,
    Message,
    Process,
    Queue,
    RawMessage,
    Suppression,
    Transition,
    Unheard,
)
from mailapp.models.answer import COUNTED

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

_STEP = 100  # rows of one transaction, which takes some 30 ms
_REST = 3.0  # after each step so many times as long as it took; the mail goes on meanwhile
_LOOK_SECONDS = 600.0  # how often a process looks whether the duty of the day is due
_ORPHAN_DAYS = 1.0  # a file is there before its row, but not for so long
_OUR_FILE = re.compile(r"\d{4}/\d\d/\d\d/(mail.*\.eml|\.\w+)")  # as `keep_large` names them


class Chore(NamedTuple):
    """One kind of thing that grows old."""

    one: str  #: what one of them is called
    find: Callable[[], Iterator[list[Any]]]  #: what can go, in steps
    remove: Callable[[list[Any]], int]  #: removes a step's, and says how many those were


def clean(*, dry_run: bool = False, stopping: threading.Event | None = None) -> dict[str, int]:
    """Remove what need not be kept, and return how much of each kind; or only count it.

    Safe to interrupt, to repeat, and to run twice at once. Ends early when `stopping` is set.
    """
    stopping = stopping or threading.Event()
    counts = dict.fromkeys(_CHORES, 0)
    for kind, chore in _CHORES.items():
        for found in filter(None, chore.find()):
            begin = monotonic()
            counts[kind] += len(found) if dry_run else chore.remove(found)
            if stopping.wait(_REST * (monotonic() - begin)):
                return counts
    return counts


def in_words(counts: Mapping[str, int]) -> list[str]:
    """Say of each kind how many were removed, as `clean` has counted them."""
    return [amount(count, _CHORES[kind].one, kind) for kind, count in counts.items()]


@contextlib.contextmanager
def daily() -> Iterator[None]:
    """Clean beside what is done in the block, once a day whatever number of processes do so."""
    ended = threading.Event()
    thread = threading.Thread(target=_clean_daily, args=(ended,), name="housekeeping", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _clean_daily(ended: threading.Event) -> None:
    try:
        while not ended.is_set():
            try:
                if Duty.objects.take("housekeeping", every=timedelta(days=1)):
                    _log(clean(stopping=ended))
            except Exception:
                logger.exception("Housekeeping stopped; it goes on tomorrow")
                close_old_connections()
            ended.wait(_LOOK_SECONDS)
    finally:
        connection.close()


def _log(counts: dict[str, int]) -> None:
    if any(counts.values()):
        logger.info("Removed %s", ", ".join(in_words(counts)))


def _days_ago(days: float) -> datetime:
    return timezone.now() - timedelta(days=days)


def _in_steps(items: Iterable[Item]) -> Iterator[list[Item]]:
    items = iter(items)
    return iter(lambda: list(islice(items, _STEP)), [])


def _older(rows: models.QuerySet[Any], at: str, days: float) -> Iterator[list[int]]:
    """Yield the keys of older rows, in steps; of none when `days` is 0.

    In the order of their keys, which is about that of their age: it ends at the first younger.
    """
    before, last = _days_ago(days), 0
    while days:
        ahead = rows.filter(pk__gt=last).order_by("pk").values_list("pk", flat=True)
        step = list(ahead[:_STEP])  # the keys alone, which an index has in order
        old = rows.model._default_manager.filter(pk__in=step, **{f"{at}__lt": before})
        keys = list(old.order_by("pk").values_list("pk", flat=True))
        yield keys
        if len(keys) < _STEP:
            break
        last = keys[-1]


def _remove_rows(model: type[models.Model], keys: list[int]) -> int:
    rows = model._default_manager.filter(pk__in=keys)
    with turns.atomic():
        free = list(rows.select_for_update(skip_locked=True).values_list("pk", flat=True))
        rows.filter(pk__in=free).delete()
    return len(free)


# Mail


def _old_deliveries() -> Iterator[list[int]]:
    keep = mail_settings().KEEP
    for queue in Queue.objects.values_list("name", flat=True):
        for status in FINAL:
            rows = Delivery.objects.filter(queue=queue, status=status)
            for keys in _older(rows, "created_at", keep.get(status, 0)):
                yield list(_unneeded(Delivery.objects.filter(pk__in=keys)))


def _unneeded(rows: DeliveryQuerySet) -> dict[int, int]:
    """Return those of these deliveries that can go, and the message of each.

    A message is kept whole until the last of its deliveries can go.
    """
    expired = dict(rows.expired().values_list("pk", "message_id"))
    others = Delivery.objects.filter(message__in=set(expired.values())).unexpired()
    needed = set(others.values_list("message_id", flat=True).distinct())
    return {key: message for key, message in expired.items() if message not in needed}


def _remove_deliveries(keys: list[int]) -> int:
    """Remove deliveries with their attempts, and their messages with the last of these."""
    theirs = Delivery.objects.filter(pk__in=keys).values("message")
    with turns.atomic():
        # First the messages, or two who remove the last two of one would both leave it there.
        messages = Message.objects.filter(pk__in=theirs).select_for_update(skip_locked=True)
        free = list(messages.values_list("pk", flat=True))
        rows = Delivery.objects.filter(pk__in=keys, message__in=free)
        unneeded = _unneeded(rows.select_for_update(skip_locked=True))
        Delivery.objects.filter(pk__in=unneeded).delete()
        files = _remove_messages(set(unneeded.values()))
    _remove_files(files)
    return len(unneeded)


def _remove_messages(keys: set[int]) -> list[str]:
    """Remove those that have no delivery left; return the names of their files."""
    left = Delivery.objects.filter(message__in=keys).values_list("message_id", flat=True)
    gone = keys.difference(left.distinct())
    large = RawMessage.objects.filter(message__in=gone, content=None)
    files = list(large.values_list("file", flat=True))
    Message.objects.filter(pk__in=gone).delete()
    return files


# Files


def _orphans() -> Iterator[list[str]]:
    """Find files that no row names, though it had the time to."""
    for names in _in_steps(filter(_OUR_FILE.fullmatch, _files())):
        large = RawMessage.objects.filter(content=None, file__in=names)
        nameless = set(names).difference(large.values_list("file", flat=True))
        yield [name for name in nameless if _is_old(name)]


def _files(folder: str = "") -> Iterator[str]:
    try:
        folders, files = storages["mail"].listdir(folder)
    except FileNotFoundError:  # nothing was kept yet
        return
    yield from (f"{folder}{name}" for name in files)
    for name in folders:
        yield from _files(f"{folder}{name}/")


def _is_old(name: str) -> bool:
    with contextlib.suppress(FileNotFoundError):  # somebody else removed it
        return storages["mail"].get_modified_time(name) < _days_ago(_ORPHAN_DAYS)
    return False


def _remove_files(names: list[str]) -> int:
    return sum(map(_remove_file, names))


def _remove_file(name: str) -> bool:
    try:
        storages["mail"].delete(name)
    except Exception:  # each storage raises errors of its own
        logger.exception("The file %s stays until tomorrow", name)
        return False
    return True


# The rest


def _old_processes() -> Iterator[list[int]]:
    """Find processes that were last heard long ago, and that nothing names any more."""
    days, this = mail_settings().KEEP.get("processes", 0), OuterRef("pk")
    rows = Process.objects.filter(
        ~Exists(Attempt.objects.filter(process=this)),
        ~Exists(Delivery.objects.filter(claimed_by=this)),
        heartbeat_at__lt=_days_ago(days),
    )
    return _older(rows, "heartbeat_at", days)


def _old_transitions() -> Iterator[list[int]]:
    return _older(Transition.objects.all(), "at", mail_settings().KEEP.get("transitions", 0))


def _old_unheard() -> Iterator[list[int]]:
    return _older(Unheard.objects.all(), "created_at", mail_settings().RETRY_DAYS)


def _uncounted_answers() -> Iterator[list[int]]:
    return _older(Answer.objects.all(), "at", COUNTED / timedelta(days=1))


def _expired_suppressions() -> Iterator[list[int]]:
    return _in_steps(Suppression.objects.expired().values_list("pk", flat=True))


def _overdue_duties() -> Iterator[list[str]]:
    return _in_steps(_overdue().values_list("pk", flat=True))


def _remove_duties(names: list[str]) -> int:
    return _overdue().filter(pk__in=names).delete()[0]


def _overdue() -> models.QuerySet[Duty]:
    """Duties that nobody took for a day: whose turn is over, such as to tell a sender."""
    return Duty.objects.filter(due_at__lt=_days_ago(1))


_CHORES = {
    "deliveries": Chore("delivery", _old_deliveries, _remove_deliveries),
    "transitions": Chore("transition", _old_transitions, partial(_remove_rows, Transition)),
    "processes": Chore("process", _old_processes, partial(_remove_rows, Process)),
    "notes of unheard mail": Chore(
        "note of unheard mail", _old_unheard, partial(_remove_rows, Unheard)
    ),
    "counted answers": Chore("counted answer", _uncounted_answers, partial(_remove_rows, Answer)),
    "suppressions": Chore("suppression", _expired_suppressions, partial(_remove_rows, Suppression)),
    "duties": Chore("duty", _overdue_duties, _remove_duties),
    "files without a message": Chore("file without a message", _orphans, _remove_files),
}
