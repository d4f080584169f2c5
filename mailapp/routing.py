"""Which state function takes a recipient: decorators, patterns, Router. Pure: no database.

A route is a regular expression in which `(name)` stands for a named capture. It is matched
whole against the envelope recipient, in which ASCII letters are lower case; so captures
arrive in lower case too.
"""

from __future__ import annotations

import inspect
import re
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, lru_cache, wraps
from types import FunctionType, ModuleType
from typing import Any, TypeAlias, TypeVar

from mailapp.addresses import fold, split
from mailapp.conf import QUEUE_NAME
from mailapp.errors import BadRoute, NotAState, TimerGone

Function = TypeVar("Function", bound=Callable[..., Any])

INCOMING = "incoming"  #: the queue of the mail that came in

START = "START"  #: the state of a person who is new
ERROR = "ERROR"  #: the state that a conversation falls into when its mail failed for good


@dataclass(frozen=True)
class Route:
    """A pattern as its author wrote it."""

    pattern: str
    captures: Mapping[str, str]


@dataclass
class _Marks:
    """What the decorators said of a function."""

    routes: list[Route] = field(default_factory=list)
    stateless: bool = False
    bounces: bool = False
    atomic: bool = True
    in_order: bool = False
    queues: list[str] = field(default_factory=list)
    timers: list[tuple[Callable[..., Any], timedelta]] = field(default_factory=list)


def _marks(function: Callable[..., Any]) -> _Marks:
    marks: _Marks = function.__dict__.setdefault("mail_marks", _Marks())
    return marks


# The decorators. Each returns the function itself, so that it can be returned as a state.
# Decorators of your own go below or above them, and must use functools.wraps.


def route(pattern: str, **captures: str) -> Callable[[Function], Function]:
    """Let a state function take recipients that match `pattern`.

    Each `(name)` becomes a capture, which is passed as a keyword argument. Its regular
    expression comes from `captures`, else from `MAIL["ROUTER_DEFAULTS"]`; `(host)` matches
    `MAIL["HOSTS"]`. May be stacked.
    """

    def mark(function: Function) -> Function:
        _marks(function).routes.insert(0, Route(pattern, captures))
        return function

    return mark


def route_like(other: Callable[..., Any]) -> Callable[[Function], Function]:
    """Give a state function the routes of another one."""

    def mark(function: Function) -> Function:
        routes = _marks(other).routes
        if not routes:
            raise BadRoute(f"route_like({other.__qualname__}): that function has no route")
        _marks(function).routes[:0] = routes
        return function

    return mark


def after(
    state: Callable[..., Any],
    *,
    days: float = 0,
    hours: float = 0,
    minutes: float = 0,
    seconds: float = 0,
) -> Callable[[Function], Function]:
    """Run a function of the conversation when that has been in `state` for so long.

    What it returns is the next state; None stays. May be stacked, for several states or times.
    """
    delay = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)

    def mark(function: Function) -> Function:
        _marks(function).timers.insert(0, (state, delay))
        return function

    return mark


def stateless(function: Function) -> Function:
    """Run this function for every mail that matches, whatever the person's state.

    What it returns is ignored.
    """
    _marks(function).stateless = True
    return function


def bounces(function: Function) -> Function:
    """Run this function, stateless, for bounces only. It opens no address to other mail."""
    _marks(function).stateless = _marks(function).bounces = True
    return function


def non_atomic(function: Function) -> Function:
    """Run this function outside a transaction, since it talks to slow services.

    Its state and its mail are still stored together, afterwards. If the process dies in
    between, the function runs again.
    """
    _marks(function).atomic = False
    return function


def in_order(function: Function) -> Function:
    """Have later mail of the conversation wait while one that failed here waits for its retry."""
    _marks(function).in_order = True
    return function


def from_queue(name: str) -> Callable[[Function], Function]:
    """Let a function take mail of this queue, instead of the mail that comes in.

    `message.to_queue(name)` puts mail there. It opens no address. May be stacked.
    """

    def mark(function: Function) -> Function:
        _marks(function).queues.insert(0, name)
        return function

    return mark


def for_people(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let the mail of machines (RFC 3834) end before it reaches this function.

    So an out-of-office note is no answer. The state stays, and the operator is told.
    """

    @wraps(function)
    def only_of_people(message: Any, *values: str, **captures: str) -> Any:
        if message.is_automatic:
            message.note = "Dropped: a machine sent it"
            return None
        return function(message, *values, **captures)

    return only_of_people


def state_key_generator(function: Function) -> Function:
    """Mark `function(module_name, message) -> str`: a person has one conversation a key."""
    function.__dict__["mail_state_key"] = True
    return function


def accepts(function: Function) -> Function:
    """Mark `function(**captures) -> bool`: does this recipient, which a route takes, exist?

    It is asked while the sending server waits for the reply to RCPT, so that mail for what is
    not there is refused and not bounced later. It may query the database; never the network.
    """
    function.__dict__["mail_accepts"] = True
    return function


@dataclass(frozen=True, eq=False)
class State:
    """A state function of a handler module."""

    module: str
    function: Callable[..., Any]
    routes: tuple[Route, ...]
    stateless: bool
    bounces: bool
    atomic: bool
    in_order: bool
    queues: tuple[str, ...] = (INCOMING,)

    @property
    def name(self) -> str:
        return self.function.__name__

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class TimerFunction:
    """A function that runs when a conversation has been in the state `after` for so long."""

    function: Callable[..., Any]
    after: Callable[..., Any]
    delay: timedelta
    atomic: bool

    @property
    def name(self) -> str:
        return self.function.__name__

    def __str__(self) -> str:
        return f"{self.function.__module__}.{self.name}"


Timers: TypeAlias = Mapping[str, Sequence[TimerFunction]]  #: of each state that has any


@dataclass(frozen=True, eq=False)
class HandlerModule:
    """The state functions of one module, and what it says of itself.

    `row` is the id of its Handler, `example` a recipient with which to try it.
    """

    name: str
    states: Mapping[str, State]
    timers: Timers = field(default_factory=dict)
    state_key: Callable[[str, Any], str] | None = None
    accepts: Callable[..., bool] | None = None
    description: str = ""
    order: int = 100
    enabled: bool = True
    example: str = ""
    row: int = 0


def read_module(module: ModuleType) -> HandlerModule | None:
    """Collect the state functions that `module` defines; None when it has none.

    `default_order` and `default_enabled` in the module say how its Handler row begins;
    `example` is a recipient with which to try it.
    """
    states: dict[str, State] = {}
    timed: list[FunctionType] = []
    key = accepts = None
    for thing in vars(module).values():
        if not inspect.isfunction(thing) or not _is_defined_in(module, thing):
            continue
        if "mail_state_key" in thing.__dict__:
            key = thing
        if "mail_accepts" in thing.__dict__:
            accepts = thing
        if marks := thing.__dict__.get("mail_marks"):
            if marks.timers:
                timed.append(thing)
            else:
                states[thing.__name__] = _state(thing, marks)
    timers = _timers(timed, states)
    if not states:
        return None
    return HandlerModule(
        name=module.__name__,
        states=states,
        timers=timers,
        state_key=key,
        accepts=accepts,
        description=(inspect.getdoc(module) or "").strip(),
        order=getattr(module, "default_order", 100),
        enabled=getattr(module, "default_enabled", True),
        example=getattr(module, "example", ""),
    )


def _is_defined_in(module: ModuleType, function: FunctionType) -> bool:
    """Tell what a module defines from what it imports.

    A state is stored by its function's name. Raise BadRoute if that name does not lead back
    to the function.
    """
    ours = function.__module__ == module.__name__
    home = module if ours else sys.modules.get(function.__module__)
    if getattr(home, function.__name__, None) is function:
        return ours
    if "mail_marks" in function.__dict__:
        raise BadRoute(
            f"{module.__name__} has a state function whose name is {function.__qualname__} "
            f"of {function.__module__}; its decorator must use functools.wraps"
        )
    return False


_OF_OTHERS = ("outgoing", "undeliverable")
_LONGEST = timedelta(days=36500)


def _state(function: FunctionType, marks: _Marks) -> State:
    state = State(
        function.__module__,
        function,
        tuple(marks.routes),
        marks.stateless,
        marks.bounces,
        marks.atomic,
        marks.in_order,
        tuple(marks.queues) or (INCOMING,),
    )
    if not state.routes:
        raise BadRoute(f"{state} has no @route")
    if state.stateless and state.in_order:
        raise BadRoute(f"{state} is stateless, so there is no conversation whose order it may keep")
    if inspect.iscoroutinefunction(function):
        raise BadRoute(f"{state} is async; a state function is a plain one")
    for queue in state.queues:
        if not QUEUE_NAME.fullmatch(queue) or queue in _OF_OTHERS:
            raise BadRoute(f"{state}: handlers cannot work a queue named {queue!r}")
    return state


def _timers(
    functions: Sequence[FunctionType], states: Mapping[str, State]
) -> dict[str, list[TimerFunction]]:
    """Return the timers of each state that has any."""
    found: dict[str, list[TimerFunction]] = {}
    for function in functions:
        marks = _marks(function)
        for after_what, delay in marks.timers:
            timer = TimerFunction(function, after_what, delay, marks.atomic)
            try:
                _check_timer(timer, marks, states)
            except (ValueError, TypeError) as error:
                raise BadRoute(f"{timer}, @after({_name(after_what)}): {error}") from error
            found.setdefault(after_what.__name__, []).append(timer)
    return found


def _check_timer(timer: TimerFunction, marks: _Marks, states: Mapping[str, State]) -> None:
    """Raise ValueError or TypeError for one that could not run."""
    state = states.get(_name(timer.after))
    if state is None or state.function is not timer.after or state.stateless:
        raise ValueError("that is no state of this module")
    if state.name == START:
        raise ValueError("a person is in START before the first mail; take a state after it")
    if not timedelta(0) < timer.delay <= _LONGEST:
        raise ValueError("it takes a time, as in days=3, and no more than a century")
    if marks.routes or marks.stateless or marks.queues:
        raise ValueError("a function takes mail or a conversation, not both")
    if inspect.iscoroutinefunction(timer.function):
        raise ValueError("it is async; the function of a timer is a plain one")
    inspect.signature(timer.function).bind(None)


def _name(thing: Any) -> str:
    return getattr(thing, "__name__", repr(thing))


@dataclass(frozen=True)
class Match:
    """A state function whose route fits, and what the route captured."""

    handler: HandlerModule
    state: State
    captures: Mapping[str, str]


class Router:
    """The routes of the enabled handlers, in their order, for the mail of one queue."""

    def __init__(
        self,
        handlers: Sequence[HandlerModule],
        *,
        hosts: Sequence[str],
        defaults: Mapping[str, str] | None = None,
        disabled: Sequence[HandlerModule] = (),
        queues: Collection[str] = (INCOMING,),
    ) -> None:
        """Route to the functions that take mail of one of `queues`.

        Raise BadRoute, naming function and pattern, for a route that cannot be used, by whatever
        queue.
        """
        self.handlers = tuple(handlers)
        self.hosts = frozenset(hosts)
        known = {"host": "|".join(re.escape(host) for host in hosts), **(defaults or {})}
        patterns = [
            (handler, state, compile_route(route, state, known, handler.accepts))
            for handler in (*handlers, *disabled)  # these may be switched on at any time
            for state in handler.states.values()
            for route in state.routes
        ]
        self._patterns = [
            (handler, state, pattern)
            for handler, state, pattern in patterns
            if handler not in disabled and not set(queues).isdisjoint(state.queues)
        ]
        self._known = {handler.name: handler for handler in (*handlers, *disabled)}
        self.matches = lru_cache(maxsize=4096)(self._matches)

    def asks(self, recipient: str) -> bool:
        """Say whether `accepts` has to ask a handler, which may query the database."""
        takers = self._takers(recipient)
        return bool(takers) and all(match.handler.accepts for match in takers)

    def accepts(self, recipient: str) -> bool:
        """Say whether a handler takes this address and, where all can tell, one knows it."""
        takers = self._takers(recipient)
        return any(match.handler.accepts is None for match in takers) or any(
            match.handler.accepts(**match.captures) for match in takers if match.handler.accepts
        )

    def _takers(self, recipient: str) -> list[Match]:
        if not self.is_local(recipient):
            return []
        return [match for match in self.matches(recipient) if not match.state.bounces]

    def is_local(self, recipient: str) -> bool:
        """Say whether the domain is one that we accept mail for."""
        return fold(split(recipient)[1]) in self.hosts

    def _matches(self, recipient: str) -> tuple[Match, ...]:
        """All matches of an envelope recipient: handlers in order, functions as written."""
        return tuple(self._each_match(fold(recipient)))

    def _each_match(self, recipient: str) -> Iterator[Match]:
        seen = set()
        for handler, state, pattern in self._patterns:
            if state not in seen and (found := pattern.fullmatch(recipient)):
                seen.add(state)
                yield Match(handler, state, found.groupdict())

    def state(self, returned: Any) -> tuple[HandlerModule, State]:
        """Find the state that a state function returned; raise NotAState otherwise."""
        if inspect.isfunction(returned) and (handler := self._known.get(returned.__module__)):
            state = handler.states.get(returned.__name__)
            if state and state.function is returned and not state.stateless:
                return handler, state
        raise NotAState(repr(returned)[:200])

    def timer(self, module: str, state: str, function: str) -> TimerFunction:
        """Find the function of a timer that was stored; raise TimerGone otherwise."""
        timers = self._known[module].timers.get(state, ()) if module in self._known else ()
        for timer in timers:
            if timer.name == function:
                return timer
        raise TimerGone(f"{module}.{function} after {state}")


_CAPTURE = re.compile(r"(?<!\\)\(([A-Za-z_]\w*)\)")
_LITERAL = re.compile(r"(?:[\w@-](?![*+?{|]))*")


def compile_route(
    route: Route,
    state: State,
    defaults: Mapping[str, str],
    accepts: Callable[..., bool] | None = None,
) -> re.Pattern[str]:
    """Turn a route into a regular expression with named groups; raise BadRoute if it is none."""
    try:
        pattern = _compile(route.pattern, {**defaults, **route.captures})
        if unused := set(route.captures) - set(pattern.groupindex):
            raise ValueError(f"it does not use the captures {sorted(unused)}")
        captures = dict.fromkeys(pattern.groupindex)
        inspect.signature(state.function).bind(None, **captures)
        if accepts and not state.bounces and INCOMING in state.queues:
            inspect.signature(accepts).bind(**captures)
    except (ValueError, TypeError) as error:
        raise BadRoute(f"{state}, @route({route.pattern!r}): {error}") from error
    return pattern


def _compile(text: str, expressions: Mapping[str, str]) -> re.Pattern[str]:
    def named_group(found: re.Match[str]) -> str:
        name = found[1]
        if name not in expressions:
            raise ValueError(f"nothing says what ({name}) matches")
        _safe(expressions[name])
        return f"(?P<{name}>{expressions[name]})"

    literal = _LITERAL.match(text)
    return _safe(_CAPTURE.sub(named_group, text), literal[0] if literal else "")


@cache
def _safe(expression: str, begin: str = "") -> re.Pattern[str]:
    """Compile an expression that fails in good time on what follows `begin`, or ValueError."""
    try:
        pattern = re.compile(expression, re.IGNORECASE | re.ASCII)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{expression!r} is not a regular expression: {error}") from error
    if probe := backtracks(pattern, begin):
        raise ValueError(
            f"{expression!r} takes far too long to fail on {probe!r}; avoid nested repetition"
        )
    return pattern


_PROBE_SECONDS = 0.05
_PROBE_UNITS = ("a", "1", "-", ".", "_", "+", "a.", "a-", "a1", "a@", " ", "é")


def backtracks(pattern: re.Pattern[str], begin: str = "") -> str | None:
    """Return a recipient that makes `pattern` run away, or None.

    Grows strings that almost match until the CPU time of this thread (not the wall's)
    shows more than it may cost; 254 octets is the longest recipient (RFC 5321 4.5.3.1.3).
    """
    for unit in _PROBE_UNITS:
        for length in (8, 12, 16, 20, 22, 24, 28, 64, 128, 254):
            probe = begin + (unit * length)[:length] + "\n"
            started = time.thread_time()
            pattern.fullmatch(probe)
            if time.thread_time() - started > _PROBE_SECONDS:
                return probe
    return None
