"""From a delivery to its handler and on to the next state: the only place where states move.

`plan` chooses the functions, `perform` runs them, `record` writes the moves in the caller's
transaction, in which the caller also stores the mail and the end of the delivery.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from mailapp import outbox, registry
from mailapp.errors import ConversationMoved, NotAState, NotHandled
from mailapp.models import Conversation, Delivery, Timer, Transition
from mailapp.outbox import Collected
from mailapp.request import ConversationRequest, MailRequest
from mailapp.routing import ERROR, START, HandlerModule, Match, Router, TimerFunction, Timers


@dataclass
class Move:
    """A conversation that goes on to `to_state`."""

    conversation: Conversation
    timers: Timers  #: of its handler
    from_state: str
    to_state: str
    cause: str = Transition.Cause.MAIL
    duration: float = 0  #: seconds that the state function ran
    stays: bool = False  #: where it is, so that its timers go on


class Conversations:
    """Conversations as a transaction sees them: those of the people in a batch in one query.

    A run that fails may have changed what it was given; then its person's are forgotten.
    """

    def __init__(self, people: Iterable[str] = ()) -> None:
        self._people = set(people)
        rows = Conversation.objects.filter(person__in=self._people, key="")
        self._found = {(row.handler_id, row.person): row for row in rows}

    def find(self, handler: HandlerModule, request: MailRequest) -> Conversation:
        """The person's conversation with this handler; a new one, in START, has no row yet."""
        if request.identity is None:
            raise NotHandled("the null sender has no conversation")
        person = request.identity.person
        key = handler.state_key(handler.name, request) if handler.state_key else ""
        new = Conversation(handler_id=handler.row, person=person, key=key)
        if person in self._people and not key:
            return self._found.setdefault((handler.row, person), new)
        rows = Conversation.objects.filter(handler=handler.row, person=person, key=key)
        return rows.first() or new

    def forget(self, person: str) -> None:
        """Look up this person's conversations anew from now on."""
        self._people.discard(person)


@dataclass
class Plan:
    """What will run for a delivery, and in which handler's name."""

    request: MailRequest
    router: Router
    conversations: Conversations
    stateless: list[Match] = field(default_factory=list)
    stateful: Match | None = None
    conversation: Conversation | None = None  #: for the function with a state

    @property
    def atomic(self) -> bool:
        """False when a function asked to run outside a transaction."""
        return all(match.state.atomic for match in self.matches)

    @property
    def line(self) -> Conversation | None:
        """The conversation, if its later mail has to wait while this one waits for its retry."""
        return self.conversation if self.stateful and self.stateful.state.in_order else None

    @property
    def matches(self) -> list[Match]:
        return [*self.stateless, *([self.stateful] if self.stateful else [])]

    @property
    def handler(self) -> int:
        """The id of the Handler that takes the mail: the one with the state, else the last."""
        return self.matches[-1].handler.row


@dataclass
class Effects:
    """What a run of state functions has caused, until `record` writes it."""

    posted: Collected
    moves: list[Move] = field(default_factory=list)
    transitions: list[Transition] = field(default_factory=list)  #: of `record`, not saved yet


def plan(delivery: Delivery, router: Router, conversations: Conversations) -> Plan:
    """Choose the functions for a delivery; raise NotHandled when there is none.

    Each matching stateless function; then the first handler, in order, whose state
    function for this person's current state matches. The null sender is nobody: no
    conversation, so no function with a state.
    """
    request = MailRequest(delivery)
    chosen = Plan(request, router, conversations)
    conversation: Conversation | None = None
    for match in router.matches(delivery.recipient):
        if match.state.stateless:
            if request.is_bounce or not match.state.bounces:
                chosen.stateless.append(match)
        elif chosen.stateful is None and not request.is_bounce:
            if conversation is None or conversation.handler_id != match.handler.row:
                conversation = conversations.find(match.handler, request)
            if match.state.name == conversation.state:
                chosen.stateful, chosen.conversation = match, conversation
    if not chosen.matches:
        raise NotHandled(f"{delivery.recipient} from {request.sender or '<>'}")
    return chosen


def perform(plan: Plan) -> Effects:
    """Run the functions of a plan. What they raise is raised, and nothing is to be recorded."""
    request = plan.request
    with outbox.collecting(request.delivery.pk) as posted:
        for match in plan.stateless:
            match.state.function(request, **match.captures)
        effects = Effects(posted)
        if plan.stateful:
            effects.moves = _run_state(plan, plan.stateful)
    return effects


def _run_state(plan: Plan, match: Match) -> list[Move]:
    conversation = plan.request.conversation = plan.conversation
    assert conversation is not None
    before = copy.deepcopy(conversation.data)
    begin = time.perf_counter()
    returned = match.state.function(plan.request, **match.captures)
    duration = time.perf_counter() - begin

    stays = Move(
        conversation,
        match.handler.timers,
        conversation.state,
        conversation.state,
        duration=duration,
        stays=True,
    )
    if returned is None:
        return [stays]
    handler, state = plan.router.state(returned)
    own = handler.row == match.handler.row
    goes = conversation if own else plan.conversations.find(handler, plan.request)
    moved = Move(goes, handler.timers, goes.state, state.name, duration=duration)
    return [moved] if own or conversation.data == before else [stays, moved]


def enter_error(failed: Plan) -> Effects | None:
    """Send the conversation of a mail that failed for good to ERROR; None if there is no ERROR.

    It starts again from what is stored: the run that failed may have changed it.
    """
    match = failed.stateful
    if match is None or ERROR not in match.handler.states or match.state.name == ERROR:
        return None
    failed.conversations.forget(failed.request.delivery.person)
    conversation = failed.conversation = failed.conversations.find(match.handler, failed.request)
    move = Move(
        conversation,
        match.handler.timers,
        conversation.state,
        ERROR,
        cause=Transition.Cause.ERROR,
    )
    return Effects(Collected(), [move])


def perform_error(failed: Plan) -> Effects:
    """Give the mail that failed to the ERROR function, if its route fits; the mail may go on."""
    assert failed.stateful is not None
    with outbox.collecting(failed.request.delivery.pk) as posted:
        effects = Effects(posted)
        for match in failed.router.matches(failed.request.recipient):
            if match.handler is failed.stateful.handler and match.state.name == ERROR:
                effects.moves = _run_state(failed, match)
    return effects


def ring(timed: TimerFunction, conversation: Conversation, router: Router) -> Effects:
    """Run the function of a timer. What it raises is raised, and nothing is to be recorded.

    It moves its own conversation alone; raise NotAState for a state of another module.
    """
    with outbox.collecting() as posted:
        begin = time.perf_counter()
        returned = timed.function(ConversationRequest(conversation))
        duration = time.perf_counter() - begin
    handler, state = router.state(timed.after if returned is None else returned)
    if handler.row != conversation.handler_id:
        raise NotAState(f"{state} is another module's")
    move = Move(
        conversation,
        handler.timers,
        conversation.state,
        state.name,
        Transition.Cause.TIMER,
        duration,
        stays=returned is None,
    )
    return Effects(posted, [move])


def record_ring(timer: Timer, effects: Effects) -> None:
    """Write what a timer caused, as `record` does, and that it has run."""
    _write_all(effects)
    timer.delete()


def record(plan: Plan, effects: Effects) -> None:
    """Write the moves in the current transaction; their history and mail are left to the caller.

    Raise ConversationMoved when somebody else moved a conversation meanwhile; the
    transaction is of no use then.
    """
    _write_all(effects, plan.request.delivery)


def _write_all(effects: Effects, delivery: Delivery | None = None) -> None:
    written = (_write(move, delivery) for move in effects.moves)
    effects.transitions = [transition for transition in written if transition]


def _write(move: Move, delivery: Delivery | None = None, operator: Any = None) -> Transition | None:
    """Write where a conversation is now; return its history's next row, unsaved."""
    conversation = move.conversation
    if conversation.pk is None and move.to_state == START and not conversation.data:
        return None
    conversation.state = move.to_state
    conversation.updated_at = timezone.now()
    conversation.version += 1
    if conversation.pk is None:
        _insert(conversation)
    else:
        _update(conversation)
    if move.timers and not move.stays:
        _set_timers(move)
    return Transition(
        conversation=conversation,
        cause=move.cause,
        delivery=delivery,
        operator=operator,
        from_state=move.from_state,
        to_state=move.to_state,
        duration=move.duration,
    )


def _insert(conversation: Conversation) -> None:
    try:
        conversation.save(force_insert=True)
    except IntegrityError as error:
        raise ConversationMoved(str(conversation)) from error


def _update(conversation: Conversation) -> None:
    unmoved = Conversation.objects.filter(pk=conversation.pk, version=conversation.version - 1)
    if not unmoved.update(
        state=conversation.state,
        data=conversation.data,
        version=conversation.version,
        updated_at=conversation.updated_at,
    ):
        raise ConversationMoved(str(conversation))


def _set_timers(move: Move) -> None:
    """Stop the timers of the state that was left, and start those of the one that was entered."""
    if move.from_state in move.timers:
        Timer.objects.filter(conversation=move.conversation).delete()
    Timer.objects.bulk_create(
        Timer(
            conversation=move.conversation,
            state=move.to_state,
            function=timed.name,
            due_at=move.conversation.updated_at + timed.delay,
        )
        for timed in move.timers.get(move.to_state, ())
    )


def move(conversation: Conversation, to_state: str, *, operator: Any) -> None:
    """Move a conversation by hand, in a transaction of its own.

    Raise ConversationMoved when a mail moved it since it was read.
    """
    handler = registry.handler_modules().get(conversation.handler.module)
    by_hand = Move(
        conversation,
        handler.timers if handler else {},
        conversation.state,
        to_state,
        Transition.Cause.OPERATOR,
    )
    with transaction.atomic():
        if transition := _write(by_hand, operator=operator):
            transition.save()
