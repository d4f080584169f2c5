"""What the benchmarks write to: `talk` answers and moves its state, `note` only takes mail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mailapp.request import MailRequest
from mailapp.routing import route, route_like, stateless


@route("talk@(host)")
def START(message: MailRequest, host: str) -> Callable[..., Any]:
    message.respond("benchmarks/answer.msg")
    return TALKING


@route_like(START)
def TALKING(message: MailRequest, host: str) -> Callable[..., Any]:
    message.respond("benchmarks/answer.msg")
    return START


@route("note@(host)")
@route("note-(token)@(host)", token="[0-9a-f]+")
@stateless
def NOTE(message: MailRequest, host: str, token: str = "") -> None:
    pass
