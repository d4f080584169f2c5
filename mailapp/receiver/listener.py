"""What the sessions of one port have in common."""

from __future__ import annotations

import errno
import ssl
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple, Protocol

from mailapp.conf import MailSettings
from mailapp.models import NewMail
from mailapp.storage import open_spool

from . import replies
from .data import DataReader
from .limits import Network, Sessions, is_in, networks
from .protocol import Dialogue, Method


class Kept(NamedTuple):
    """What became of a mail: the reply, and under which key it is stored anew."""

    reply: bytes
    key: int | None = None


class Destination(Protocol):
    """Where mail goes, and whether it may."""

    def closed(self) -> bytes | None:
        """The reply that turns everybody away at the door; None when it is open."""

    def unavailable(self) -> bytes | None:
        """The reply when no mail can be taken just now; None when it can."""

    async def refusal(self, recipient: str) -> bytes | None:
        """The reply that refuses a recipient; None when its mail is wanted."""

    async def store(self, mail: NewMail, spool: BinaryIO | None) -> Kept:
        """Keep a mail for good; the reply is 250 only when it is kept.

        With a spool, `mail.raw` is only the beginning of what the spool holds.
        """

    def unheard(self, key: int) -> None:
        """Take note that the client may not have heard the 250 for this mail."""


class OpenToAll:
    """What a destination says that takes all mail for everybody, at any time."""

    def closed(self) -> bytes | None:
        """It is always open."""
        return None

    def unavailable(self) -> bytes | None:
        """It always takes mail."""
        return None

    async def refusal(self, recipient: str) -> bytes | None:
        """It takes mail for everybody."""
        return None

    def unheard(self, key: int) -> None:
        """A mail that comes twice is there twice."""


def whole_content(mail: NewMail, spool: BinaryIO | None) -> bytes:
    """Return the content of a mail, of which a spool may hold more than the mail itself."""
    if spool is None:
        return mail.raw
    spool.seek(0)
    return spool.read()


@dataclass(eq=False)
class Listener:
    """One port: what is spoken there, where its mail goes, and who may come."""

    settings: MailSettings
    destination: Destination
    sessions: Sessions
    kind: type[Dialogue] = Dialogue
    tls: ssl.SSLContext | None = None
    tls_at_once: bool = False
    only_from: tuple[Network, ...] | None = None  #: None: everybody may come

    def __post_init__(self) -> None:
        self.hostname = self.settings.hostname
        self.proxies = networks(self.settings.PROXY_NETWORKS)
        self.methods: dict[str, Method] = {
            name: getattr(self.kind, f"smtp_{name}") for name in self.kind.COMMANDS.split()
        }

    def answer(self) -> Dialogue:
        """Begin the dialogue with a client that connects."""
        return self.kind(self)

    def refusal(self, dialogue: Dialogue) -> bytes | None:
        """The reply that turns a client away at the door; None when it may come in."""
        if self.only_from is not None and not is_in(dialogue.peer, self.only_from):
            return replies.NOT_FROM_THERE
        return self.sessions.locate(dialogue, dialogue.peer) or self.destination.closed()

    def content_reader(self) -> DataReader:
        """Make the reader for one mail, who must be closed."""
        return DataReader(
            self.settings.MAX_MESSAGE_SIZE,
            memory=self.settings.INLINE_SIZE,
            shared=self.sessions.content_memory,
            make_spool=self._spool,
            normalise=self.settings.BARE_LINE_ENDS == "normalise",
        )

    def _spool(self) -> BinaryIO:
        """Open a spool; raise OSError when there is no space for what may come."""
        if self.destination.unavailable() == replies.DISK_LOW:
            raise OSError(errno.ENOSPC, "too little space is free")
        return open_spool(self.settings.RUN_DIR)
