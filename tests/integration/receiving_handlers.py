"""A handler that takes every address but `nobody`, for the tests of the receiver."""

from __future__ import annotations

from typing import Any

from mailapp.routing import route


@route("(address)@(host)", address="(?!nobody@).+")
def START(message: Any, address: str, host: str) -> None:
    """Take the mail."""
