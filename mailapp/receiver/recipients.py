"""Which recipients are taken: the rule of the receiver, and of all who take mail as it does."""

from __future__ import annotations

from collections.abc import Callable

from django.db import connection

from mailapp.addresses import fold, split
from mailapp.registry import current_router
from mailapp.routing import Router

from . import replies


class Recipients:
    """Which recipients some enabled handler takes, by the router of the last refresh."""

    def __init__(self, newest_router: Callable[[], Router]) -> None:
        self._newest_router = newest_router
        self.refresh()

    def refresh(self) -> None:
        """Take the newest router. A query; not in the event loop."""
        self._router = self._newest_router()

    def asks(self, recipient: str) -> bool:
        """Say whether `refusal` has to ask a handler, which may query the database."""
        return self._router.asks(recipient)

    def refusal(self, recipient: str) -> bytes | None:
        """The reply that refuses a recipient; None when its mail is wanted."""
        local, domain = split(recipient)
        if domain not in self._router.hosts:
            return replies.RELAY_DENIED
        if fold(local) == "postmaster" or self._router.accepts(recipient):
            return None
        return replies.NO_SUCH_RECIPIENT


def newest_router() -> Router:
    """Return the router of the handlers that are on now, for a thread that asks now and then."""
    try:
        return current_router(max_age=0)
    finally:
        connection.close_if_unusable_or_obsolete()
