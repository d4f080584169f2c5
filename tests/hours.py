"""Answers what the opening hours are.

A handler for the tests of the operator's pages: three states, and a function without one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mailapp.routing import after, route, stateless


@route("(topic)@(host)", topic="hours")
def START(message: Any, topic: str, host: str) -> Callable[..., Any]:
    """Take the question."""
    return ASKED


@route("(topic)-(token)@(host)", topic="hours", token="[a-z0-9]+")
def ASKED(message: Any, topic: str, token: str, host: str) -> Callable[..., Any]:
    """Take the answer to our question."""
    return CONFIRMING


@route("(topic)-(token)@(host)", topic="hours", token="[a-z0-9]+")
def CONFIRMING(message: Any, topic: str, token: str, host: str) -> Callable[..., Any]:
    """Take the confirmation."""
    return START


@after(CONFIRMING, days=3)
def expire(conversation: Any) -> Callable[..., Any]:
    """Take the silence for a no."""
    return START


@route("(anything)@(host)", anything=".+")
@stateless
def COUNT(message: Any, anything: str, host: str) -> None:
    """Count every mail."""
