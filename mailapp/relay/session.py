"""Sending with a kept connection: opened when needed, opened anew when it broke."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .connection import Connection, ConnectionBroken
from .wire import Reply


class Session:
    """Sends mail after mail, each to as many recipients at once as the smart host takes."""

    def __init__(self, connect: Callable[[], Connection], *, recipients: int) -> None:
        """Send to at most so many `recipients` in one transaction."""
        self._connect = connect
        self._recipients = recipients
        self._connection: Connection | None = None

    def send(self, sender: str, recipients: Sequence[str], raw: bytes) -> dict[str, Reply]:
        """Send in one transaction and return what became of its recipients.

        Those without a reply are too many for one transaction: they are for the next. Raise
        NoUpstream or ConnectionBroken when nobody knows what became of any.
        """
        batch = list(dict.fromkeys(recipients))[: self._recipients]
        replies = self._transact(sender, batch, raw)
        excess = [recipient for recipient, reply in replies.items() if reply.too_many]
        if excess and any(reply.accepted for reply in replies.values()):
            self._recipients = len(batch) - len(excess)
            replies = {each: reply for each, reply in replies.items() if each not in excess}
        return replies

    def _transact(self, sender: str, recipients: Sequence[str], raw: bytes) -> dict[str, Reply]:
        kept = self._connection
        if kept is not None and kept.is_fit():
            try:
                return kept.transact(sender, recipients, raw)
            except ConnectionBroken as broken:
                if broken.content_sent:
                    raise
        self._drop()
        self._connection = self._connect()
        return self._connection.transact(sender, recipients, raw)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.abandon()
            self._connection = None

    def close(self) -> None:
        """End the session in good order, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
