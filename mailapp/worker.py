"""The loop that works a queue with handlers: claim, dispatch, settle. And timers in between.

A batch is one transaction, with a savepoint for each delivery whose handler touches the
database, so that one bad mail does not take the others down. Functions that asked for it run
outside, alone, and so does a mail whose last try ended with its process.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from time import monotonic

from django.db import Error, connection, transaction
from django.utils import timezone

from mailapp import (
    containment,
    dispatch,
    dsn,
    failures,
    housekeeping,
    mime,
    outbox,
    registry,
    timers,
    turns,
    way,
)
from mailapp.amounts import amount
from mailapp.conf import mail_settings
from mailapp.errors import (
    ClaimLost,
    ConversationMoved,
    DeliveryInHand,
    LostTooOften,
    NotHandled,
    SMTPError,
    TransactionLeft,
    WorkLost,
)
from mailapp.lifecycle import Life, keep_what_is_loaded, living, release_dead
from mailapp.models import (
    INCOMING,
    Attempt,
    Conversation,
    Delivery,
    Outcome,
    Place,
    Process,
    Status,
)
from mailapp.outbox import Collected
from mailapp.routing import Router
from mailapp.savepoint import SavepointOnDemand, atomic_until_locked, lock, no_transaction_left
from mailapp.wakeup import listen

logger = logging.getLogger(__name__)

_LOOK_FOR_TIMERS = 1.0  # seconds, while there is mail, whose batches pay nothing so

# Seconds of rest after a batch that was not full, so that what comes meanwhile shares the next:
# the longer, the more comes, but one after another that comes now and then does not wait long.
_REST_PER_MAIL, _LONGEST_REST = 0.005, 0.06

# What says all by its name: a traceback would only tell where it was raised.
_PLAIN = (
    NotHandled,
    SMTPError,
    ConversationMoved,
    DeliveryInHand,
    LostTooOften,
    TransactionLeft,
    WorkLost,
)


def run(on_ready: Callable[[str], None] = lambda queue: None, queue: str = INCOMING) -> None:
    """Work `queue` until SIGTERM or SIGINT; then finish the mail in hand and return."""
    registry.sync()
    containment.contain()
    keep_what_is_loaded()
    with living(Process.Kind.WORKER, queue) as life, housekeeping.daily():
        serve(queue, life, on_ready)


def serve(queue: str, life: Life, on_ready: Callable[[str], None]) -> None:
    """Work `queue` until `life` is asked to stop; call `on_ready` when no wake-up is missed."""
    with listen(queue) as bell:
        life.on_stop(bell.wake)
        on_ready(queue)
        while not life.stopping.is_set():
            bell.wait(_work_what_is_due(queue, life))


def _work_what_is_due(queue: str, life: Life) -> float:
    """Work until nothing is due; return for how many seconds that will be so."""
    begin = timezone.now()
    try:
        release_dead(idle=life)
        drain(queue, life)
        return idle_seconds(queue, begin)
    except Error:
        logger.exception("The database does not answer; trying again")
        connection.close()
        return mail_settings().POLL_SECONDS


def idle_seconds(queue: str, since: datetime) -> float:
    """How long nothing will become due, as far as is known now.

    What was due before `since` waits for something else: its queue is paused, or another
    worker has mail of the same person in hand and will go on with this.
    """
    poll = mail_settings().POLL_SECONDS
    coming = (Delivery.objects.next_due(queue, since), timers.next_due(queue, since))
    moments = [at for at in coming if at]
    if not moments:
        return poll
    return min(poll, max((min(moments) - timezone.now()).total_seconds(), 0))


def drain(queue: str, life: Life) -> int:
    """Claim and work until nothing is due or the process is to stop; return how many mails."""
    worked, look_at = 0, monotonic() + _LOOK_FOR_TIMERS
    while not life.stopping.is_set():
        limit = mail_settings().BATCH_SIZE
        batch = Delivery.objects.claim(
            queue, life.process, limit, with_bytes=True, suspects_alone=True
        )
        if batch:
            life.activity = (
                f"{amount(len(batch), 'delivery', 'deliveries')} since {timezone.now():%H:%M:%S}"
            )
            with containment.timed():
                router = registry.current_router(max_age=0, queue=queue)
                worked += work(batch, router, life.stopping)
            if len(batch) < limit:
                life.stopping.wait(min(len(batch) * _REST_PER_MAIL, _LONGEST_REST))
            if monotonic() < look_at:
                continue
        rung = timers.work(queue, life)
        look_at = monotonic() + _LOOK_FOR_TIMERS
        if not batch and not rung:
            break
    life.activity = ""
    return worked


def work(batch: Sequence[Delivery], router: Router, stopping: threading.Event) -> int:
    """Dispatch and settle claimed deliveries, in order; give back those that are not tried."""
    done = 0
    containment.take([delivery.pk for delivery in batch])
    while done < len(batch) and not stopping.is_set() and not containment.is_slow():
        done += _next_transaction(batch[done:], router)
    Delivery.objects.give_back(batch[done:])
    return done


def _next_transaction(batch: Sequence[Delivery], router: Router, *, again: bool = False) -> int:
    """Work the head of the batch in one transaction; return how many deliveries that were.

    `again`: it is tried for the second time at once, since its conversation had moved meanwhile.
    """
    turn = _Turn(router, dispatch.Conversations(delivery.person for delivery in batch))
    try:
        with atomic_until_locked():
            turn.work(batch)
            lock()
            turn.settle()
            failures.let_hooks_fail_alone()
    except Exception as error:
        if not turn.tried:  # the transaction did not even begin
            raise
        _one_by_one(turn, error, again=again)
    else:
        turn.tell()
        if turn.outside:
            _run_outside(turn.outside, router)
    return len(turn.tried)


def _one_by_one(failed: _Turn, error: Exception, *, again: bool) -> None:
    """A transaction failed as a whole: give each delivery its own, to find the bad one."""
    if len(failed.tried) > 1:
        for delivery in failed.tried:
            _next_transaction([delivery], failed.router)
    elif isinstance(error, ConversationMoved) and not again:
        # At once, ahead of the later mail of this person.
        _next_transaction(failed.tried, failed.router, again=True)
    else:
        _settle_failure(failed.tried[0], failed.router, error, failed.plan)


def _run_outside(plan: dispatch.Plan, router: Router) -> None:
    """Run functions that asked for no transaction; what they cause is stored in one."""
    turn, started_at = _Turn(router, plan.conversations), timezone.now()
    containment.start_clock(plan.request.delivery.pk)
    try:
        with no_transaction_left():
            effects = dispatch.perform(plan)
        containment.rest()
        with turns.atomic():
            turn.done(plan, effects, started_at)
            turn.settle()
            failures.let_hooks_fail_alone()
    except (Exception, SystemExit) as error:
        _settle_failure(plan.request.delivery, router, error, plan)
    else:
        turn.tell()


def _settle_failure(
    delivery: Delivery, router: Router, error: BaseException, plan: dispatch.Plan | None
) -> None:
    connection.close_if_unusable_or_obsolete()
    turn = _Turn(router, dispatch.Conversations())
    try:
        if isinstance(error, ClaimLost):
            raise error
        with turns.atomic():
            turn.fail(delivery, error, plan, delivery.claimed_at or timezone.now())
            turn.settle()
    except ClaimLost as lost:
        logger.warning("Delivery %d: %s", delivery.pk, lost)
    else:
        turn.tell()


class _Turn:
    """Deliveries that end in one transaction: how each ended, and what they cause."""

    def __init__(self, router: Router, conversations: dispatch.Conversations) -> None:
        self.router = router
        self.conversations = conversations
        self.tried: list[Delivery] = []
        self.plan: dispatch.Plan | None = None  #: of the delivery that was tried last
        self.outside: dispatch.Plan | None = None  #: found on the way; runs after the commit
        self.outcomes: dict[Delivery, Outcome] = {}
        self.handlings: dict[Delivery, way.Handling] = {}  #: of those that a handler takes
        self.posted = Collected()
        self.leaving: list[int] = []  #: deliveries that leave their lines with the commit

    def work(self, batch: Sequence[Delivery]) -> None:
        """Try deliveries in order until the time is up or one must run outside."""
        end = monotonic() + mail_settings().BATCH_SECONDS
        for delivery in batch:
            if self.conversations.is_to_be_written(delivery.person):
                self._lock_and_write()
            self._attempt(delivery)
            if self.outside or monotonic() > end:
                break
        containment.rest()

    def _attempt(self, delivery: Delivery) -> None:
        containment.start_clock(delivery.pk)
        self.tried.append(delivery)
        self.plan, started_at = None, timezone.now()
        try:
            with SavepointOnDemand(self._lock_and_write) as run:
                if delivery.tries > failures.MOST_LOST:
                    _refuse_killer(delivery)
                self.plan = plan = dispatch.plan(delivery, self.router, self.conversations)
                if plan.line and Place.objects.wait(delivery, plan.line):
                    return
                if not (plan.atomic and mail_settings().ATOMIC_HANDLERS):
                    self.outside = plan
                    return
                effects = dispatch.perform(plan)
        except (Exception, SystemExit) as error:
            if transaction.get_rollback():  # not even the savepoint could be restored
                raise
            if failures.is_deadlock(error) and len(self.tried) > 1:
                raise  # it may have met the locks of those before it: alone it meets none
            self.conversations.forget(delivery.person)
            self._lock_and_write()
            self.fail(delivery, error, self.plan, started_at)
        else:
            if run.wrote(Conversation):
                self.conversations.forget_all()
            self.done(plan, effects, started_at)

    def _lock_and_write(self) -> None:
        """Have the database as it is after the deliveries before this one."""
        lock()
        self.conversations.write()

    def done(self, plan: dispatch.Plan, effects: dispatch.Effects, started_at: datetime) -> None:
        self.conversations.keep(effects)
        self.posted.add(effects.posted)
        self._leave_line(plan.request.delivery, plan)
        self.handlings[plan.request.delivery] = way.Handling(plan.handler.name, *effects.course)
        self.outcomes[plan.request.delivery] = Outcome(
            status=Status.DONE,
            reply=mime.one_line(plan.request.note),
            handler=plan.handler.row,
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

        Nobody takes it, or it kills: held. A 5xx of the handler: failed, with a DSN. Anything
        else is tried again, and after the last try held, when ERROR has its say.
        """
        ending, reply = _ending(delivery, error), failures.in_one_line(error)
        failures.make_way_after(error)
        if ending == Status.FAILED:
            reply = self._tell_sender(delivery, reply)
        elif ending == Status.HELD and plan:
            self._enter_error(plan)
        if plan:
            self.handlings[delivery] = way.Handling(plan.handler.name)
        if ending != Status.DEFERRED:
            self._leave_line(delivery, plan)
        elif plan and plan.line:
            Place.objects.begin(delivery, plan.line)
        self.outcomes[delivery] = Outcome(
            status=ending,
            reply=reply,
            error="" if isinstance(error, _PLAIN) else failures.in_full(error),
            delay=_delay(delivery, error) if ending == Status.DEFERRED else 0,
            handler=plan.handler.row if plan else None,
            started_at=started_at,
        )

    def _leave_line(self, delivery: Delivery, plan: dispatch.Plan | None) -> None:
        """Let those go on who wait for a delivery, if it may have a place in a line.

        It may have one from an earlier try, though what takes it now, if anything, asks for no
        order. Then nobody has looked for one yet, and to do so before `lock` would be a fault.
        """
        if plan and plan.line and plan.line.pk:  # whose next mail may be in this batch
            Place.objects.leave([delivery.pk])
        elif delivery.reply or delivery.tries > 1:
            self.leaving.append(delivery.pk)

    def _tell_sender(self, delivery: Delivery, reply: str) -> str:
        """Post a report; return the reply, with a note of why the sender is not told."""
        try:
            with transaction.atomic():
                untold = dsn.post_failure(delivery.message, [(delivery.recipient, reply)])
        except Exception as error:
            logger.exception("No report of the failed delivery %d", delivery.pk)
            untold = failures.in_one_line(error)
        return dsn.noted(reply, untold)

    def _enter_error(self, plan: dispatch.Plan) -> None:
        """Move the conversation to ERROR, where it stays when the function there fails too."""
        try:
            for step in (dispatch.enter_error, dispatch.perform_error):
                with transaction.atomic():
                    effects = step(plan)
                    if effects is None:
                        return
                    dispatch.write(effects.moves)
                self.posted.add(effects.posted)
        except (Exception, SystemExit):
            logger.exception("ERROR itself failed for delivery %d", plan.request.delivery.pk)

    def settle(self) -> None:
        """Store the states, the mail and the ends of all; raise ClaimLost if one was not ours."""
        self.conversations.write()
        outbox.store(self.posted)
        if self.leaving:
            Place.objects.leave(self.leaving)
        Delivery.objects.settle(self.outcomes)
        if self.outside:  # whose function runs once
            Delivery.objects.keep_claims([self.outside.request.delivery])

    def tell(self) -> None:
        """Log what became of each, once it is committed."""
        for delivery, outcome in self.outcomes.items():
            way.handled(delivery, outcome, self.handlings.get(delivery))


def _refuse_killer(delivery: Delivery) -> None:
    """Raise LostTooOften if as many tries as may be have ended with their process."""
    lost = delivery.attempt_set.filter(outcome=Attempt.LOST, number__gt=delivery.attempts_before)
    replies = list(lost.values_list("reply", flat=True))
    if len(replies) >= failures.MOST_LOST:
        raise LostTooOften(replies[-1])


def _ending(delivery: Delivery, error: BaseException) -> Status:
    if isinstance(error, (NotHandled, LostTooOften)):
        return Status.HELD
    if isinstance(error, SMTPError) and error.permanent:
        return Status.FAILED
    return Status.HELD if delivery.tries >= failures.most_tries() else Status.DEFERRED


def _delay(delivery: Delivery, error: BaseException) -> float:
    """Seconds until the next try."""
    return 0 if isinstance(error, ConversationMoved) else failures.pause(delivery.tries)
