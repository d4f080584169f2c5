"""A private mail catcher for development: takes all mail of this machine, sends nothing on."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

from mailapp import mime
from mailapp.conf import MailSettings, mail_settings
from mailapp.logs import escaped
from mailapp.maildir import Maildir, envelope_fields
from mailapp.models import NewMail

from . import replies
from .faults import Fault, FaultyListener
from .limits import networks, watched_sessions
from .listener import Kept, OpenToAll, whole_content
from .server import event_loop, listening

logger = logging.getLogger(__name__)

LOOPBACK = networks(["127.0.0.0/8", "::1/128"])

_SHOWN_LINES, _SHOWN_CHARACTERS = 10, 200


def run(on_ready: Callable[[str], None] = print) -> None:
    """Run the catcher of the settings until SIGTERM or SIGINT. Raise PortTaken."""
    settings = mail_settings()
    serve(settings, settings.CATCHER, Catcher(settings.CATCHER_QUEUE), on_ready)


def serve(
    settings: MailSettings,
    place: str,
    catcher: Catcher,
    on_ready: Callable[[str], None],
    faults: Sequence[Fault] = (),
) -> None:
    """Catch mail at a place until SIGTERM or SIGINT, with faults on purpose. Raise PortTaken."""
    with event_loop() as runner:
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            runner.get_loop().add_signal_handler(number, stopping.set)
        runner.run(_catch(settings, place, catcher, faults, stopping, on_ready))


async def _catch(
    settings: MailSettings,
    place: str,
    catcher: Catcher,
    faults: Sequence[Fault],
    stopping: asyncio.Event,
    on_ready: Callable[[str], None],
) -> None:
    async with watched_sessions(settings) as sessions:
        listener = FaultyListener(settings, catcher, sessions, only_from=LOOPBACK, faults=faults)
        async with listening(listener, place) as opened:
            on_ready(opened)
            await stopping.wait()


class Catcher(OpenToAll):
    """Logs each mail in a line, and keeps it in a Maildir or shows how it begins.

    In the Maildir its envelope is in trace fields on top.
    """

    def __init__(self, queue: str = "", show: Callable[[str], None] | None = None) -> None:
        """`queue` is the path of the Maildir; empty: none. Raise OSError when it cannot be made."""
        self._show = show
        self._maildir = Maildir(queue, create=True) if queue else None
        if self._maildir is not None:
            self._maildir.remove_halves()

    async def store(self, mail: NewMail, spool: BinaryIO | None) -> Kept:
        """Keep a mail in a file of its own, which is on disk before the reply."""
        await asyncio.to_thread(self._take, mail, spool)
        return Kept(replies.STORED)

    def _take(self, mail: NewMail, spool: BinaryIO | None) -> None:
        content = whole_content(mail, spool)
        if self._maildir is not None:
            on_top = envelope_fields(mail.sender, mail.recipients)
            self._maildir.add(on_top + content.replace(b"\r\n", b"\n"))
        logger.info("Caught from %s: %s", _envelope(mail), mime.head_columns(content).subject)
        if self._show is not None:
            self._show("\n".join([f"From {_envelope(mail)}", *_beginning(content), ""]))


def _envelope(mail: NewMail) -> str:
    recipients = ", ".join(f"<{recipient}>" for recipient in mail.recipients)
    return escaped(f"<{mail.sender}> to {recipients}")


def _beginning(content: bytes) -> Iterator[str]:
    """Yield who wrote a mail about what, and its first lines. Control characters are escaped."""
    message = mime.parse(content)
    for name in ("From", "To", "Subject"):
        yield f"  {name}: {_shown(mime.header(message, name))}"
    yield ""
    lines = mime.body_of(message).strip().splitlines()
    yield from (f"  {_shown(line)}" for line in lines[:_SHOWN_LINES])
    if len(lines) > _SHOWN_LINES:
        yield f"  ({len(lines) - _SHOWN_LINES} more lines)"


def _shown(line: str) -> str:
    return escaped(line[:_SHOWN_CHARACTERS])
