"""What the sessions of one port have in common."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from mailapp.conf import MailSettings
from mailapp.models import NewMail

from .limits import Network, Sessions
from .protocol import Dialogue


class Destination(Protocol):
    """Where a listener's mail goes, and whether it may."""

    def unavailable(self) -> bytes | None:
        """The reply when no mail can be taken now, whoever sends it; None when it can."""

    def refusal(self, recipient: str) -> bytes | None:
        """The reply that refuses a recipient; None when its mail is wanted."""

    async def store(self, mail: NewMail, spool: BinaryIO | None) -> bytes:
        """Keep a mail for good and return the reply, 250 only when it is kept.

        With a spool, `mail.raw` is only the beginning of what the spool holds.
        """


@dataclass(eq=False)
class Listener:
    """One port: its destination, its settings, and the sessions that are open."""

    settings: MailSettings
    destination: Destination
    tls: ssl.SSLContext | None = None
    only_from: tuple[Network, ...] | None = None  #: who may connect; None: everybody
    sessions: Sessions = field(default_factory=Sessions)
    draining: bool = False
    kind: type[Dialogue] = Dialogue

    def __post_init__(self) -> None:
        self.hostname = self.settings.hostname
        self.methods: dict[str, Callable[[Dialogue, str], Awaitable[None]]] = {
            name: getattr(self.kind, f"smtp_{name}") for name in self.kind.COMMANDS.split()
        }

    def answer(self) -> Dialogue:
        """Begin the dialogue with a client that connects."""
        return self.kind(self)
