"""Which state function takes a recipient: decorators, patterns, Router. Pure: no database.

A route is a regular expression in which `(name)` stands for a named capture. It is matched
whole against the envelope recipient, in which ASCII letters are lower case; so captures
arrive in lower case too.
"""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from types import ModuleType
from typing import Any, TypeVar

from mailapp.addresses import fold, split
from mailapp.errors import BadRoute, NotAState

Function = TypeVar("Function", bound=Callable[..., Any])

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


def _marks(function: Callable[..., Any]) -> _Marks:
    marks: _Marks = function.__dict__.setdefault("mail_marks", _Marks())
    return marks


# The decorators. Each returns the function itself, so that it can be returned as a state.


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


def state_key_generator(function: Function) -> Function:
    """Mark `function(module_name, message) -> str`: a person has one conversation a key."""
    function.__dict__["mail_state_key"] = True
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

    @property
    def name(self) -> str:
        return self.function.__name__

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, eq=False)
class HandlerModule:
    """The state functions of one module, and what it says of itself.

    `row` is the id of its Handler, `example` a recipient with which to try it.
    """

    name: str
    states: Mapping[str, State]
    state_key: Callable[[str, Any], str] | None = None
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
    key = None
    for name, thing in vars(module).items():
        if not inspect.isfunction(thing) or thing.__module__ != module.__name__:
            continue
        if "mail_state_key" in thing.__dict__:
            key = thing
        marks: _Marks | None = thing.__dict__.get("mail_marks")
        if marks is None:
            continue
        if not marks.routes:
            raise BadRoute(f"{module.__name__}.{name} has no @route")
        states[thing.__name__] = State(
            module.__name__,
            thing,
            tuple(marks.routes),
            marks.stateless,
            marks.bounces,
            marks.atomic,
        )
    if not states:
        return None
    return HandlerModule(
        name=module.__name__,
        states=states,
        state_key=key,
        description=(inspect.getdoc(module) or "").strip(),
        order=getattr(module, "default_order", 100),
        enabled=getattr(module, "default_enabled", True),
        example=getattr(module, "example", ""),
    )


@dataclass(frozen=True)
class Match:
    """A state function whose route fits, and what the route captured."""

    handler: HandlerModule
    state: State
    captures: Mapping[str, str]


class Router:
    """The routes of the enabled handlers, in their order."""

    def __init__(
        self,
        handlers: Sequence[HandlerModule],
        *,
        hosts: Sequence[str],
        defaults: Mapping[str, str] | None = None,
        disabled: Sequence[HandlerModule] = (),
    ) -> None:
        """Raise BadRoute, naming function and pattern, for a route that cannot be used."""
        self.handlers = tuple(handlers)
        self.hosts = frozenset(hosts)
        known = {"host": "|".join(re.escape(host) for host in hosts), **(defaults or {})}
        self._patterns = [
            (handler, state, compile_route(route, state, known))
            for handler in self.handlers
            for state in handler.states.values()
            for route in state.routes
        ]
        self._known = {handler.name: handler for handler in (*handlers, *disabled)}
        self.matches = lru_cache(maxsize=4096)(self._matches)

    def takes(self, recipient: str) -> bool:
        """Say whether mail for this address, at one of our hosts, reaches a state function."""
        return self.is_local(recipient) and any(
            not match.state.bounces for match in self.matches(recipient)
        )

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
        handler = self._known.get(getattr(returned, "__module__", ""))
        state = handler.states.get(getattr(returned, "__name__", "")) if handler else None
        if handler is None or state is None or state.function is not returned:
            raise NotAState(repr(returned)[:200])
        return handler, state


_CAPTURE = re.compile(r"(?<!\\)\(([A-Za-z_]\w*)\)")


@cache
def _compile(expression: str) -> re.Pattern[str]:
    pattern = re.compile(expression, re.IGNORECASE | re.ASCII)
    if probe := backtracks(pattern):
        raise BadRoute(f"it takes far too long to fail on {probe!r}; avoid nested repetition")
    return pattern


def compile_route(route: Route, state: State, defaults: Mapping[str, str]) -> re.Pattern[str]:
    """Turn a route into a regular expression with named groups; raise BadRoute if it is none."""
    where = f"{state}: @route({route.pattern!r})"
    expressions = {**defaults, **route.captures}

    def named_group(found: re.Match[str]) -> str:
        name = found[1]
        if name not in expressions:
            raise BadRoute(f"{where} does not say what ({name}) matches")
        return f"(?P<{name}>{expressions[name]})"

    expression = _CAPTURE.sub(named_group, route.pattern)
    try:
        pattern = _compile(expression)
    except re.error as error:
        raise BadRoute(f"{where} is not a regular expression: {error}") from error
    except BadRoute as error:
        raise BadRoute(f"{where}: {error}") from error
    unused = set(route.captures) - set(pattern.groupindex)
    if unused:
        raise BadRoute(f"{where} defines captures that it does not use: {sorted(unused)}")
    try:
        inspect.signature(state.function).bind(None, **dict.fromkeys(pattern.groupindex))
    except TypeError as error:
        raise BadRoute(f"{where} does not fit the function's arguments: {error}") from error
    return pattern


_PROBE_SECONDS = 0.05
_PROBE_UNITS = ("a", "1", "-", ".", "_", "+", "a.", "a-", "a1", "a@", " ", "é")


def backtracks(pattern: re.Pattern[str]) -> str | None:
    """Return a recipient that makes `pattern` run away, or None.

    Grows strings that almost match until the CPU time of this thread (not the wall's)
    shows more than it may cost; 254 octets is the longest recipient (RFC 5321 4.5.3.1.3).
    """
    for unit in _PROBE_UNITS:
        for length in (8, 12, 16, 20, 22, 24, 28, 64, 128, 254):
            probe = (unit * length)[:length] + "\n"
            begin = time.thread_time()
            pattern.fullmatch(probe)
            if time.thread_time() - begin > _PROBE_SECONDS:
                return probe
    return None
