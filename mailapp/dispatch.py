"""From a delivery to its handler and on to the next state: the only place where states move.

`plan` chooses the functions, `perform` runs them, `Conversations.write` writes the moves of a
batch in the caller's transaction, in which the caller also stores the mail and the end of each
delivery.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from mailapp import outbox, registry
from mailapp.errors import NotAState, NotHandled
from mailapp.models import INCOMING, Conversation, Delivery, Timer, Transition
from mailapp.models.insert import insert
from mailapp.outbox import Collected
from mailapp.request import ConversationRequest, MailRequest
from mailapp.routing import ERROR, START, HandlerModule, Match, Router, TimerFunction, Timers

_JSON = json.JSONEncoder(allow_nan=False)


@dataclass
class Move:
    """A conversation that goes on to `to_state`."""

    conversation: Conversation
    timers: Timers  #: of its handler
    to_state: str
    cause: str = Transition.Cause.MAIL
    duration: float = 0  #: seconds that the state function ran
    stays: bool = False  #: where it is, so that its timers go on
    delivery: int | None = None  #: id of the one that caused it
    operator: int | None = None  #: id of the user who caused it
    from_state: str = field(init=False)

    def __post_init__(self) -> None:
        self.from_state = self.conversation.state

    @property
    def leaves_a_trace(self) -> bool:
        """False for a person in START who never left it: no row."""
        conversation = self.conversation
        return not (conversation.pk is None and self.to_state == START and not conversation.data)


class Conversations:
    """Conversations as a transaction sees them.

    Those of the people in a batch are read in one query, and their moves written together:
    call `write` before anybody looks for them in the database, and before the commit.

    A run that fails may have changed what it was given; then its person's are forgotten.
    """

    def __init__(self, people: Iterable[str] = ()) -> None:
        self._people = set(people)
        rows = Conversation.objects.read_without_key(self._people)
        self._found = {(row.handler_id, row.person): row for row in rows}
        self._unwritten: list[Move] = []

    def find(self, handler: HandlerModule, request: MailRequest) -> Conversation:
        """The person's conversation with this handler; a new one, in START, has no row yet."""
        if request.identity is None:
            raise NotHandled("the null sender has no conversation")
        person = request.identity.person
        key = handler.state_key(handler.name, request) if handler.state_key else ""
        if person not in self._people or key:
            rows = Conversation.objects.filter(handler=handler.row, person=person, key=key)
            return rows.first() or Conversation(handler_id=handler.row, person=person, key=key)
        if (found := self._found.get((handler.row, person))) is None:
            found = Conversation(handler_id=handler.row, person=person)
            self._found[handler.row, person] = found
        return found

    def forget(self, person: str) -> None:
        """Look up this person's conversations anew from now on."""
        self._people.discard(person)

    def forget_all(self) -> None:
        """Look up everybody's anew, since a handler has written to their table itself."""
        self._people.clear()

    def keep(self, effects: Effects) -> None:
        """Have the moves of a run written with the next ones of the transaction."""
        self._unwritten += effects.moves

    def is_to_be_written(self, person: str) -> bool:
        """Say whether one of the moves that are kept is this person's."""
        return any(move.conversation.person == person for move in self._unwritten)

    def write(self) -> None:
        """Write the moves that are kept, as the function `write` does."""
        moves, self._unwritten = self._unwritten, []
        write(moves)


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
    def handler(self) -> HandlerModule:
        """The module that takes the mail: the one with the state, else the last."""
        return (self.stateful or self.stateless[-1]).handler


@dataclass
class Effects:
    """What a run of state functions has caused, until it is written."""

    posted: Collected
    moves: list[Move] = field(default_factory=list)

    @property
    def course(self) -> tuple[str, str]:
        """The state that the run began with and the one that it ended with; "" without any."""
        return (self.moves[0].from_state, self.moves[-1].to_state) if self.moves else ("", "")


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
        where = "" if delivery.queue_id == INCOMING else f", in queue {delivery.queue_id}"
        raise NotHandled(f"{delivery.recipient} from {request.sender or '<>'}{where}")
    return chosen


def perform(plan: Plan) -> Effects:
    """Run the functions of a plan. What they raise is raised, and nothing is to be written."""
    request = plan.request
    with outbox.collecting(request.delivery.pk, request) as posted:
        for match in plan.stateless:
            request.handler = match.handler.row
            match.state.function(request, **match.captures)
        effects = Effects(posted)
        if plan.stateful:
            effects.moves = _run_state(plan, plan.stateful)
    return effects


def _run_state(plan: Plan, match: Match) -> list[Move]:
    conversation = plan.request.conversation = plan.conversation
    plan.request.handler = match.handler.row
    assert conversation is not None
    before = copy.deepcopy(conversation.data)
    begin = time.perf_counter()
    returned = match.state.function(plan.request, **match.captures)
    duration = time.perf_counter() - begin
    _JSON.encode(conversation.data)  # or all of the batch would fail with it

    stays = Move(
        conversation,
        match.handler.timers,
        conversation.state,
        duration=duration,
        stays=True,
        delivery=plan.request.delivery.pk,
    )
    if returned is None:
        return [stays]
    handler, state = plan.router.state(returned)
    own = handler.row == match.handler.row
    goes = conversation if own else plan.conversations.find(handler, plan.request)
    moved = Move(
        goes,
        handler.timers,
        state.name,
        duration=duration,
        delivery=plan.request.delivery.pk,
    )
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
        ERROR,
        cause=Transition.Cause.ERROR,
        delivery=failed.request.delivery.pk,
    )
    return Effects(Collected(), [move])


def perform_error(failed: Plan) -> Effects:
    """Give the mail that failed to the ERROR function, if its route fits; the mail may go on."""
    assert failed.stateful is not None
    with outbox.collecting(failed.request.delivery.pk, failed.request) as posted:
        effects = Effects(posted)
        for match in failed.router.matches(failed.request.recipient):
            if match.handler is failed.stateful.handler and match.state.name == ERROR:
                effects.moves = _run_state(failed, match)
    return effects


def ring(timed: TimerFunction, conversation: Conversation, router: Router) -> Effects:
    """Run the function of a timer. What it raises is raised, and nothing is to be written.

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
        state.name,
        Transition.Cause.TIMER,
        duration,
        stays=returned is None,
    )
    return Effects(posted, [move])


def write(moves: Iterable[Move]) -> None:
    """Write where conversations are now, their timers and their history.

    Each conversation moves once, in the current transaction. Raise ConversationMoved when
    somebody else moved one meanwhile; the transaction is of no use then.
    """
    moves = [move for move in moves if move.leaves_a_trace]
    if not moves:
        return
    now = timezone.now()
    for move in moves:
        move.conversation.state = move.to_state
    Conversation.objects.store([move.conversation for move in moves], now)
    _set_timers([move for move in moves if move.timers and not move.stays])
    _write_history(moves, now)


def _set_timers(moves: Sequence[Move]) -> None:
    """Stop the timers of the states that were left, and start those of the ones entered."""
    left = [move.conversation.pk for move in moves if move.from_state in move.timers]
    if left:
        Timer.objects.filter(conversation__in=left).delete()
    Timer.objects.bulk_create(
        Timer(
            conversation=move.conversation,
            state=move.to_state,
            function=timed.name,
            due_at=move.conversation.updated_at + timed.delay,
        )
        for move in moves
        for timed in move.timers.get(move.to_state, ())
    )


_HISTORY = (
    "conversation_id",
    "cause",
    "delivery_id",
    "operator_id",
    "from_state",
    "to_state",
    "at",
    "duration",
)


def _write_history(moves: Sequence[Move], now: datetime) -> None:
    at = connection.ops.adapt_datetimefield_value(now)
    insert(Transition, _HISTORY, connection.alias).rows(
        [
            (
                move.conversation.pk,
                str(move.cause),
                move.delivery,
                move.operator,
                move.from_state,
                move.to_state,
                at,
                move.duration,
            )
            for move in moves
        ]
    )


def move(conversation: Conversation, to_state: str, *, operator: Any) -> None:
    """Move a conversation by hand, in a transaction of its own.

    Raise ConversationMoved when a mail moved it since it was read.
    """
    handler = registry.handler_modules().get(conversation.handler.module)
    by_hand = Move(
        conversation,
        handler.timers if handler else {},
        to_state,
        Transition.Cause.OPERATOR,
        operator=operator.pk,
    )
    with transaction.atomic():
        write([by_hand])
