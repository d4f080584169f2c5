"""Runs timers that are due: claims one, runs its function, stores what that caused."""

from __future__ import annotations

import contextlib
import logging
from datetime import datetime
from time import monotonic

from django.db import connection
from django.utils import timezone

from mailapp import containment, dispatch, failures, outbox, registry, turns
from mailapp.amounts import amount
from mailapp.conf import mail_settings
from mailapp.errors import ConversationMoved, LostTooOften
from mailapp.lifecycle import Life
from mailapp.models import INCOMING, Conversation, Timer
from mailapp.routing import Router
from mailapp.savepoint import SavepointOnDemand, atomic_until_locked, lock, no_transaction_left

logger = logging.getLogger(__name__)


def are_due(queue: str) -> bool:
    """Say whether the processes of this queue have a timer to run."""
    return queue == INCOMING and Timer.objects.due().exists()


def next_due(queue: str, since: datetime) -> datetime | None:
    """When the next timer comes due that was not due at `since`; None if none will."""
    if queue != INCOMING:
        return None
    coming = Timer.objects.filter(due_at__gt=since).order_by("due_at")
    return coming.values_list("due_at", flat=True).first()


def work(queue: str, life: Life) -> int:
    """Run timers that are due, the earliest first, for as long as a batch; return how many.

    Timers are worked by the processes of the queue `incoming`.
    """
    if not are_due(queue):
        return 0
    due = Timer.objects.due().free(life.process)[: mail_settings().BATCH_SIZE]
    if not due:
        return 0
    life.activity = f"{amount(len(due), 'timer')} since {timezone.now():%H:%M:%S}"
    router, worked = registry.current_router(max_age=0), 0
    end = monotonic() + mail_settings().BATCH_SECONDS
    for timer in due:
        if life.stopping.is_set() or monotonic() > end:
            break
        if claimed := timer.claim(life.process):
            with containment.timed():
                _work(claimed, router)
            worked += 1
    return worked


def _work(timer: Timer, router: Router) -> None:
    if timer.is_stale:
        timer.delete()
        return
    containment.start_clock()
    version = timer.conversation.version
    try:
        # More tries than a function that fails has: each time the database went away.
        if timer.lost >= failures.MOST_LOST or timer.tries - timer.lost > failures.most_tries():
            raise LostTooOften
        _run(timer, router)
    except ConversationMoved as moved:
        unmoved = Conversation.objects.filter(pk=timer.conversation_id, version=version)
        if unmoved.exists():  # it was the function itself, and would be again
            _fail(timer, moved)
        else:
            timer.give_back()
    except (Exception, SystemExit) as error:
        connection.close_if_unusable_or_obsolete()
        _fail(timer, error)


def _run(timer: Timer, router: Router) -> None:
    """Run the function and store what it caused, in one transaction if it may be."""
    conversation = timer.conversation
    timed = router.timer(conversation.handler.module, timer.state, timer.function)
    atomic = timed.atomic and mail_settings().ATOMIC_HANDLERS
    with atomic_until_locked() if atomic else contextlib.nullcontext():
        with SavepointOnDemand(lock) if atomic else no_transaction_left():
            effects = dispatch.ring(timed, conversation, router)
        with turns.atomic():
            lock()
            dispatch.write(effects.moves)
            timer.delete()
            outbox.store(effects.posted)
            failures.let_hooks_fail_alone()


def _fail(timer: Timer, error: BaseException) -> None:
    """Have it tried again after a pause, and after the last try leave it to an operator."""
    failures.make_way_after(error)
    reply, trace = failures.in_one_line(error), failures.in_full(error)
    if isinstance(error, LostTooOften) or timer.tries >= failures.most_tries():
        timer.hold(reply, trace)
        logger.warning("%s failed at every try and is held: %s", _named(timer), reply)
    else:
        timer.defer(failures.pause(timer.tries), reply, trace)
        logger.warning("%s failed and is tried again: %s", _named(timer), reply)


def _named(timer: Timer) -> str:
    return f"Timer {timer.pk}, {timer.function} of {timer.conversation.person}"
