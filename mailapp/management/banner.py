"""What `runmail` says once all its parts are ready."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

from mailapp import registry
from mailapp.conf import mail_settings
from mailapp.models import INCOMING
from mailapp.routing import HandlerModule, State


def banner(ready: Mapping[str, str], advice: str) -> Iterator[str]:
    """Say where each part is, which routes are on, and what to type next."""
    conf, handlers = mail_settings(), registry.current_router().handlers
    yield f"Receiver  {ready['receiver']}, for mail to {', '.join(conf.HOSTS)}"
    doors = ("RECEIVER_TLS", "LMTP", "SUBMISSION", "SUBMISSION_TLS")
    if open_ones := [f"{door} {place}" for door in doors if (place := getattr(conf, door))]:
        yield f"Besides   {', '.join(open_ones)}"
    yield f"Relay     sends to {', then '.join(map(str, conf.upstreams))}"
    if catcher_at := ready.get("catcher"):
        yield f"Catcher   {catcher_at}, keeps mail in {conf.CATCHER_QUEUE}"
    if web_at := ready.get("web"):
        yield f"Admin     http://{web_at}/admin/"
    if engine := ready.get("sweeper"):
        yield f"Engine    {engine}, whose workers run elsewhere"
    yield "Handlers  that are on, and who takes which recipients:"
    for handler in handlers:
        yield f"  {handler.name}"
        for pattern, states in _states_by_pattern(handler).items():
            yield f"    {pattern:<36} {', '.join(states)}"
    if example := next((handler.example for handler in handlers if handler.example), ""):
        yield "Next, in a second terminal:"
        yield f"  {sys.executable} manage.py sendtest --to {example} --from you@example.com"
    yield advice


def _states_by_pattern(handler: HandlerModule) -> dict[str, list[str]]:
    patterns: dict[str, list[str]] = {}
    for state in handler.states.values():
        for each in state.routes:
            patterns.setdefault(each.pattern, []).append(_named(state))
    return patterns


def _named(state: State) -> str:
    """Name a function, and the queues that it takes mail of if not of what comes in."""
    if state.queues == (INCOMING,):
        return state.name
    return f"{state.name} (of the queue {' and '.join(state.queues)})"
