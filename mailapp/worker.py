"""The loop that works a queue with handlers: claim, dispatch, settle.

A batch is one transaction with a savepoint for each delivery, so that one bad mail does not
take the others down. Functions that asked for it run outside, alone.
"""

from __future__ import annotations

import logging
import random
import threading
import traceback
from collections.abc import Callable, Sequence
from datetime import datetime
from time import monotonic

from django.db import DatabaseError, connection, transaction
from django.db.models import Min
from django.utils import timezone

from mailapp import dispatch, dsn, outbox, registry
from mailapp.conf import mail_settings
from mailapp.errors import ClaimLost, MailError, NotHandled, SMTPError
from mailapp.lifecycle import Life, living
from mailapp.models import INCOMING, Delivery, Process
from mailapp.models.delivery import Outcome, Status
from mailapp.outbox import Collected
from mailapp.routing import Router
from mailapp.wakeup import listen

logger = logging.getLogger(__name__)

_LONGEST_TRACEBACK = 20_000


def run(on_ready: Callable[[str], None] = lambda queue: None, queue: str = INCOMING) -> None:
    """Work `queue` until SIGTERM or SIGINT; then finish the mail in hand and return."""
    registry.sync()
    with living(Process.Kind.WORKER, queue) as life, listen(queue) as bell:
        life.on_stop(bell.wake)
        on_ready(queue)
        while not life.stopping.is_set():
            try:
                _release_dead()
                drain(queue, life)
                idle = _idle_seconds(queue)
            except DatabaseError:
                logger.exception("The database does not answer; trying again")
                connection.close()
                idle = mail_settings().POLL_SECONDS
            bell.wait(idle)


def _release_dead() -> None:
    if released := Delivery.objects.release_dead():
        logger.warning("Released %d deliveries of processes that died", released)


def _idle_seconds(queue: str) -> float:
    """How long nothing will be due, as far as is known now."""
    poll = mail_settings().POLL_SECONDS
    next_due = Delivery.objects.filter(queue=queue, due_at__isnull=False).aggregate(
        at=Min("due_at")
    )["at"]
    if next_due is None:
        return poll
    return min(poll, max((next_due - timezone.now()).total_seconds(), 0.01))


def drain(queue: str, life: Life) -> int:
    """Claim and work until nothing is due or the process is to stop; return how many."""
    worked = 0
    while not life.stopping.is_set():
        limit = mail_settings().BATCH_SIZE
        batch = Delivery.objects.with_bytes().claim(queue, life.process, limit)
        if not batch:
            break
        life.activity = f"{len(batch)} deliveries since {timezone.now():%H:%M:%S}"
        worked += work(batch, registry.current_router(max_age=0), life.stopping)
    life.activity = ""
    return worked


def work(batch: Sequence[Delivery], router: Router, stopping: threading.Event) -> int:
    """Dispatch and settle claimed deliveries, in order; give back the rest when stopping."""
    done = 0
    while done < len(batch) and not stopping.is_set():
        done += _next_transaction(batch[done:], router)
    Delivery.objects.give_back(batch[done:])
    return done


def _next_transaction(batch: Sequence[Delivery], router: Router) -> int:
    """Work the head of the batch in one transaction; return how many deliveries that were."""
    turn = _Turn(router)
    try:
        with transaction.atomic():
            transaction.on_commit(turn.mark_committed)
            turn.work(batch)
            turn.settle()
    except Exception as error:
        if not turn.committed:
            return _one_by_one(batch[: max(len(turn.outcomes), 1)], router, error)
        logger.exception("An on_commit function of a handler failed; its mail is done")
    if turn.outside:
        return len(turn.outcomes) + _run_outside(turn.outside, router)
    return len(turn.outcomes)


def _one_by_one(batch: Sequence[Delivery], router: Router, error: Exception) -> int:
    """A transaction failed as a whole: give each delivery its own, to find the bad one."""
    if len(batch) > 1:
        for delivery in batch:
            _next_transaction([delivery], router)
    else:
        _settle_failure(batch[0], router, error)
    return len(batch)


def _run_outside(plan: dispatch.Plan, router: Router) -> int:
    """Run functions that asked for no transaction; what they cause is stored in one."""
    delivery, turn, started_at = plan.request.delivery, _Turn(router), timezone.now()
    try:
        effects = dispatch.perform(plan)
        with transaction.atomic():
            dispatch.record(plan, effects)
            turn.done(plan, effects, started_at)
            turn.settle()
    except (Exception, SystemExit) as error:
        _settle_failure(delivery, router, error, plan)
    return 1


def _settle_failure(
    delivery: Delivery, router: Router, error: BaseException, plan: dispatch.Plan | None = None
) -> None:
    if isinstance(error, ClaimLost):
        logger.warning("Delivery %d: %s", delivery.pk, error)
        return
    connection.close_if_unusable_or_obsolete()
    turn = _Turn(router)
    with transaction.atomic():
        turn.fail(delivery, error, plan, delivery.claimed_at or timezone.now())
        turn.settle()


class _Turn:
    """Deliveries that end in one transaction: how each ended, and the mail that they cause."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.outcomes: dict[Delivery, Outcome] = {}
        self.posted = Collected()
        self.outside: dispatch.Plan | None = None  #: found on the way; runs after the commit
        self.committed = False

    def mark_committed(self) -> None:
        self.committed = True

    def work(self, batch: Sequence[Delivery]) -> None:
        """Try deliveries in order until the time is up or one must run outside."""
        end = monotonic() + mail_settings().BATCH_SECONDS
        for delivery in batch:
            self._attempt(delivery)
            if self.outside or monotonic() > end:
                break

    def _attempt(self, delivery: Delivery) -> None:
        started_at, plan = timezone.now(), None
        try:
            with transaction.atomic():
                plan = dispatch.plan(delivery, self.router)
                if not (plan.atomic and mail_settings().ATOMIC_HANDLERS):
                    self.outside = plan
                    return
                effects = dispatch.perform(plan)
                dispatch.record(plan, effects)
        except (Exception, SystemExit) as error:
            self.fail(delivery, error, plan, started_at)
        else:
            self.done(plan, effects, started_at)

    def done(self, plan: dispatch.Plan, effects: dispatch.Effects, started_at: datetime) -> None:
        self.posted.add(effects.posted)
        self.outcomes[plan.request.delivery] = Outcome(
            status=Status.DONE,
            reply=plan.request.note,
            handler=plan.handler,
            started_at=started_at,
        )

    def fail(
        self,
        delivery: Delivery,
        error: BaseException,
        plan: dispatch.Plan | None,
        started_at: datetime,
    ) -> None:
        """Say what becomes of a delivery whose handling raised `error`.

        Nobody takes it: held. A 5xx of the handler: failed, with a DSN. Anything else is
        tried again, and after the last try held, when ERROR has its say.
        """
        ending = _ending(delivery, error)
        if ending == Status.FAILED:
            dsn.post_failure(delivery.message, [(delivery.recipient, _reply(error))])
        elif ending == Status.HELD and plan:
            self._enter_error(plan)
        self.outcomes[delivery] = Outcome(
            status=ending,
            reply=_reply(error),
            error="" if isinstance(error, MailError) else _traceback(error),
            delay=_delay(delivery) if ending == Status.DEFERRED else 0,
            handler=plan.handler if plan else None,
            started_at=started_at,
        )

    def _enter_error(self, plan: dispatch.Plan) -> None:
        try:
            with transaction.atomic():
                effects = dispatch.perform_error(plan)
                dispatch.record(plan, effects)
        except (Exception, SystemExit):
            logger.exception("ERROR itself failed for delivery %d", plan.request.delivery.pk)
        else:
            self.posted.add(effects.posted)

    def settle(self) -> None:
        """Store the mail and the ends of all deliveries; raise ClaimLost if one was not ours."""
        outbox.store(self.posted)
        Delivery.objects.settle(self.outcomes)


def _tries(delivery: Delivery) -> int:
    return delivery.attempts - delivery.attempts_before


def _ending(delivery: Delivery, error: BaseException) -> Status:
    if isinstance(error, NotHandled):
        return Status.HELD
    if isinstance(error, SMTPError) and error.permanent:
        return Status.FAILED
    last = _tries(delivery) > len(mail_settings().RETRY_SECONDS)
    return Status.HELD if last else Status.DEFERRED


def _delay(delivery: Delivery) -> float:
    """Seconds until the next try, with a tenth of jitter so that failures do not march in step."""
    return mail_settings().RETRY_SECONDS[_tries(delivery) - 1] * random.uniform(0.9, 1.1)


def _reply(error: BaseException) -> str:
    if isinstance(error, SMTPError):
        return error.reply
    return f"{type(error).__name__}: {error}".splitlines()[0][:500]


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).replace("\0", "\\0")[-_LONGEST_TRACEBACK:]
