"""A private mail catcher for development: takes everything from this machine into a Maildir."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import BinaryIO

from mailapp.conf import MailSettings, mail_settings
from mailapp.maildir import Maildir, envelope_fields
from mailapp.models import NewMail

from . import replies
from .limits import networks, watched_sessions
from .listener import Kept, Listener, OpenToAll, whole_content
from .server import event_loop, listening

LOOPBACK = networks(["127.0.0.0/8", "::1/128"])


def run(on_ready: Callable[[str], None] = print) -> None:
    """Catch mail until SIGTERM or SIGINT. Raise PortTaken."""
    with event_loop() as runner:
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            runner.get_loop().add_signal_handler(number, stopping.set)
        runner.run(catch(mail_settings(), stopping, on_ready))


async def catch(
    settings: MailSettings, stopping: asyncio.Event, on_ready: Callable[[str], None]
) -> None:
    """Serve the catcher until `stopping` is set."""
    destination = MaildirDestination(settings.CATCHER_QUEUE)
    async with watched_sessions(settings) as sessions:
        listener = Listener(settings, destination, sessions, only_from=LOOPBACK)
        async with listening(listener, settings.CATCHER) as place:
            on_ready(place)
            await stopping.wait()


class MaildirDestination(OpenToAll):
    """Writes each mail to a Maildir, with its envelope in trace fields on top."""

    def __init__(self, path: str) -> None:
        self._maildir = Maildir(path, create=True)
        self._maildir.remove_halves()

    async def store(self, mail: NewMail, spool: BinaryIO | None) -> Kept:
        """Write a mail to a file of its own, which is on disk before the reply."""
        await asyncio.to_thread(self._write, mail, spool)
        return Kept(replies.STORED)

    def _write(self, mail: NewMail, spool: BinaryIO | None) -> None:
        content = whole_content(mail, spool)
        on_top = envelope_fields(mail.sender, mail.recipients)
        self._maildir.add(on_top + content.replace(b"\r\n", b"\n"))
