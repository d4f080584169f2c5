"""A private mail catcher for development: takes everything from this machine into a Maildir."""

from __future__ import annotations

import asyncio
import mailbox
import signal
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from mailapp.conf import MailSettings, mail_settings
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
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._maildir = mailbox.Maildir(path, create=True)

    async def store(self, mail: NewMail, spool: BinaryIO | None) -> Kept:
        """Write a mail to its own file; it is on disk before it has a name in `new`."""
        await asyncio.to_thread(self._write, mail, spool)
        return Kept(replies.STORED)

    def _write(self, mail: NewMail, spool: BinaryIO | None) -> None:
        content = whole_content(mail, spool)
        self._maildir.add(_envelope(mail) + content.replace(b"\r\n", b"\n"))


def _envelope(mail: NewMail) -> bytes:
    lines = [f"Return-Path: <{mail.sender}>"]
    lines += [f"Delivered-To: {recipient}" for recipient in mail.recipients]
    return "".join(f"{line}\n" for line in lines).encode()
