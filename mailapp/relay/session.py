"""Sending with a kept connection: opened when needed, opened anew when it broke."""

from __future__ import annotations

from collections.abc import Sequence

from mailapp.endpoints import Upstream

from .connection import ConnectionBroken
from .upstreams import Connection, Upstreams
from .wire import Reply


class Session:
    """Sends mail after mail, each to as many recipients at once as the smart host takes."""

    def __init__(self, upstreams: Upstreams, *, recipients: int) -> None:
        """Send to at most so many `recipients` in one transaction."""
        self._upstreams = upstreams
        self._recipients = recipients
        self._kept: tuple[Upstream, Connection] | None = None

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
        self._let_go_of_what_is_no_choice()
        if self._kept is not None:
            upstream, connection = self._kept
            try:
                return connection.transact(sender, recipients, raw)
            except ConnectionBroken as broken:
                self._kept = None
                if broken.content_sent:
                    self._upstreams.leave_alone(upstream, broken)
                    raise
        self._kept = upstream, connection = self._upstreams.connect()
        try:
            replies = connection.transact(sender, recipients, raw)
        except ConnectionBroken as broken:
            self._kept = None
            self._upstreams.leave_alone(upstream, broken)
            raise
        self._upstreams.note_well(upstream)
        return replies

    def _let_go_of_what_is_no_choice(self) -> None:
        if self._kept is None:
            return
        upstream, connection = self._kept
        if not connection.is_fit():
            connection.abandon()
            self._kept = None
        elif not self._upstreams.is_choice(upstream):
            self.close()

    def close(self) -> None:
        """End the session in good order, if there is one."""
        if self._kept is not None:
            self._kept[1].close()
            self._kept = None
