"""Which functions would take a mail, and why: what `mailroutes` says. Runs no state function."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mailapp import dispatch, registry
from mailapp.addresses import at_host, fold, split, whole
from mailapp.conf import mail_settings
from mailapp.dispatch import Conversations, Plan
from mailapp.errors import KeyUnknown, NotHandled
from mailapp.models import INCOMING, Conversation, Delivery, Handler, Message, RawMessage
from mailapp.receiver import replies
from mailapp.receiver.recipients import Recipients
from mailapp.request import MailRequest
from mailapp.routing import HandlerModule, Match, Route, Router, State

STRANGER = "stranger@example.invalid"  #: writes for the first time


def handlers() -> list[HandlerModule]:
    """The handlers that there are, in their order; each says whether it is on."""
    found = registry.handler_modules()
    return [
        dataclasses.replace(found[row.module], row=row.pk, order=row.order, enabled=row.enabled)
        for row in Handler.objects.filter(module__in=found)
    ]


@dataclass(frozen=True)
class Listed:
    """A route in the table of all of them."""

    order: int
    handler: str
    enabled: bool
    function: str
    route: str
    captures: Mapping[str, str]
    marks: list[str]  #: what its decorators say, beside the route


def all_routes() -> Iterator[Listed]:
    """Yield each route: handlers in their order, functions and routes as they are written."""
    for handler in handlers():
        for state in handler.states.values():
            for route in state.routes:
                yield _listed(handler, state, route)


def _listed(handler: HandlerModule, state: State, route: Route) -> Listed:
    return Listed(
        handler.order,
        handler.name,
        handler.enabled,
        state.name,
        route.pattern,
        route.captures,
        list(_marks(state)),
    )


def _marks(state: State) -> Iterator[str]:
    if state.bounces:
        yield "bounces"
    elif state.stateless:
        yield "stateless"
    if state.in_order:
        yield "in_order"
    if not state.atomic:
        yield "non_atomic"
    if state.queues != (INCOMING,):
        yield from (f"from_queue={queue}" for queue in state.queues)


@dataclass(frozen=True)
class Candidate:
    """A function whose route fits, and what would become of the mail there."""

    order: int
    handler: str
    function: str
    captures: Mapping[str, str]
    runs: bool
    why: str


@dataclass(frozen=True)
class Explanation:
    """What would become of a mail."""

    recipient: str
    sender: str
    reply: str  #: to RCPT
    candidates: list[Candidate] = field(default_factory=list)
    outcome: str = ""
    taken: bool = False


def explain(recipient: str, sender: str) -> Explanation:
    """Say what would become of a mail to `recipient` from `sender`; "" is the null sender.

    Raise BadAddress, or KeyUnknown when only the mail itself could tell.
    """
    recipient = at_host(whole(recipient), mail_settings().HOSTS[0])
    sender = sender and whole(sender)
    router = registry.current_router(max_age=0)
    refusal = Recipients(lambda: router).refusal(recipient)
    reply = (refusal or replies.RECIPIENT_OK).decode()
    if not router.is_local(recipient):
        outcome = f"{split(recipient)[1]} is none of {', '.join(sorted(router.hosts))}."
        return Explanation(recipient, sender, reply, outcome=outcome)
    delivery, conversations = _imagined(recipient, sender), _Conversations()
    try:
        plan = dispatch.plan(delivery, router, conversations)
    except NotHandled:
        plan = Plan(MailRequest(delivery), router, conversations)
    matches = _every_match(recipient)
    if refusal:
        candidates = [_refused(match) for match in matches]
        return Explanation(recipient, sender, reply, candidates, "It is refused.")
    return Explanation(
        recipient,
        sender,
        reply,
        [_candidate(match, plan) for match in matches],
        _outcome(plan),
        taken=bool(plan.matches),
    )


def _imagined(recipient: str, sender: str) -> Delivery:
    """A delivery of a mail that was never written."""
    message = Message(sender=sender, protocol="ESMTP")
    head = f"From: {sender}\r\nTo: {recipient}\r\nSubject: Imagined\r\n\r\n"
    RawMessage(message=message, content=head.encode())  # message.raw_message from now on
    return Delivery(message=message, queue_id=INCOMING, recipient=recipient, person=fold(sender))


def _every_match(recipient: str) -> tuple[Match, ...]:
    """What fits, of handlers that are off, too."""
    conf = mail_settings()
    every = Router(handlers(), hosts=conf.HOSTS, defaults=conf.ROUTER_DEFAULTS)
    return every.matches(recipient)


class _Conversations(Conversations):
    """Looks up a conversation without a mail that was written."""

    def find(self, handler: HandlerModule, request: MailRequest) -> Conversation:
        try:
            return super().find(handler, request)
        except Exception as error:  # of its @state_key_generator
            raise KeyUnknown(f"{handler.name}: {error!r}") from error


def _refused(match: Match) -> Candidate:
    if not match.handler.enabled:
        return _of(match, why=_OFF)
    if match.state.bounces:
        return _of(match, why="no: @bounces opens no address")
    return _of(match, why="no: its @accepts does not know the recipient")


def _candidate(match: Match, plan: Plan) -> Candidate:
    person, state = plan.request.sender, match.state
    if not match.handler.enabled:
        return _of(match, why=_OFF)
    runs = str(state) in {str(each.state) for each in plan.matches}
    if state.bounces:
        why = "runs: this is a bounce" if runs else "no: it takes bounces alone"
    elif state.stateless:
        why = "runs, whatever the state"
    elif not person:
        why = "no: the null sender is in no state"
    else:
        here = plan.conversations.find(match.handler, plan.request).state
        why = f"{'runs' if runs else 'no'}: {person} is in {here}"
        if here == state.name and not runs:
            why = "no: a handler before it takes the mail"
    return _of(match, why=why, runs=runs)


_OFF = "no: the handler is off"


def _of(match: Match, *, why: str, runs: bool = False) -> Candidate:
    return Candidate(
        match.handler.order, match.handler.name, match.state.name, match.captures, runs, why
    )


def _outcome(plan: Plan) -> str:
    if plan.stateful:
        return f"{plan.stateful.state} returns the next state."
    if plan.matches:
        return "No state moves."
    return "Nobody takes it: it is held in the queue undeliverable."
