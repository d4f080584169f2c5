"""Where the receiver's mail goes: by the storer into the handlers' queue."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import BinaryIO

from django.core.files.storage import storages
from django.db import connection

from mailapp.children import Running
from mailapp.conf import MailSettings
from mailapp.models import NewMail
from mailapp.models.message import keep_large

from . import replies
from .commits import Commits, Hired, NotStored
from .health import Health, places_of_mail
from .listener import Kept
from .recipients import Recipients, newest_router

logger = logging.getLogger(__name__)


class HandlersDestination:
    """Stores mail for the handlers."""

    def __init__(
        self,
        settings: MailSettings,
        recipients: Recipients,
        commits: Commits,
        health: Health,
        asking: Executor,
    ) -> None:
        """Handlers are asked for their recipients in the thread of `asking`."""
        self._settings = settings
        self._commits = commits
        self._health = health
        self._recipients = recipients
        self._asking = asking

    def closed(self) -> bytes | None:
        """Nobody is let in when the database is away for long."""
        if self._health.seconds_away > self._settings.DATABASE_AWAY_SECONDS:
            return replies.DATABASE_AWAY_LONG
        return None

    def unavailable(self) -> bytes | None:
        """No mail is taken without a database, or with little space for it."""
        if self._health.seconds_away or self._commits.seconds_stuck > self._settings.COMMIT_SECONDS:
            return replies.DATABASE_AWAY
        if self._health.free_space < self._settings.MIN_FREE_SPACE:
            return replies.DISK_LOW
        return None

    async def refusal(self, recipient: str) -> bytes | None:
        """Ask the router, and where only a handler can tell, that handler, for so long."""
        if not self._recipients.asks(recipient):
            return self._recipients.refusal(recipient)
        asked = asyncio.get_running_loop().run_in_executor(self._asking, self._ask, recipient)
        return await asyncio.wait_for(asked, self._settings.COMMIT_SECONDS)

    def _ask(self, recipient: str) -> bytes | None:
        try:
            return self._recipients.refusal(recipient)
        finally:
            connection.close_if_unusable_or_obsolete()

    async def store(self, mail: NewMail, spool: BinaryIO | None) -> Kept:
        """Commit a mail to the handlers' queue."""
        try:
            if spool is not None:
                mail = await asyncio.to_thread(_with_file, mail, spool)
            key = await self._commits.store(mail, self._settings.COMMIT_SECONDS)
        except NotStored as error:
            return Kept(replies.with_id(replies.NOT_STORED, error.number))
        except Exception as error:
            return Kept(replies.with_id(replies.NOT_STORED, _logged(error)))
        if key is None and mail.file:  # it was stored before, under another name
            await asyncio.to_thread(_remove, mail.file)
        return Kept(replies.STORED, key)

    def unheard(self, key: int) -> None:
        """Recognise this mail when it is sent again."""
        self._commits.unheard(key)


def _logged(error: Exception) -> str:
    """Log why a mail was not stored; return the number under which the log has it."""
    number = secrets.token_hex(6)
    known = isinstance(error, OSError)  # TimeoutError is one
    logger.error("Error %s: a mail was not stored: %r", number, error, exc_info=not known)
    return number


def _with_file(mail: NewMail, spool: BinaryIO) -> NewMail:
    size = spool.seek(0, io.SEEK_END)
    spool.seek(0)
    return mail._replace(file=keep_large(spool), file_size=size)


def _remove(file: str) -> None:
    try:
        storages["mail"].delete(file)
    except Exception:  # the mail is stored all the same; housekeeping will remove this one
        logger.exception("The file %r of a mail that came twice was not removed", file)


@contextlib.asynccontextmanager
async def handlers_destination(
    settings: MailSettings, hire: Callable[[], Hired]
) -> AsyncIterator[HandlersDestination]:
    """Open the way to the handlers' queue; what waits to be stored is stored at the end.

    `hire` starts a storer. Raise DidNotStart when it does not start.
    """
    loop = asyncio.get_running_loop()
    commits = Commits(hire)
    with (
        ThreadPoolExecutor(1, thread_name_prefix="health") as thread,
        ThreadPoolExecutor(1, thread_name_prefix="recipients") as asking,
    ):
        recipients = await loop.run_in_executor(thread, Recipients, newest_router)
        health = Health(places_of_mail(settings), recipients.refresh, thread)
        look_after = asyncio.create_task(health.look_after())
        try:
            await commits.start()
            yield HandlersDestination(settings, recipients, commits, health, asking)
        finally:
            look_after.cancel()
            await commits.stop(settings.COMMIT_SECONDS)
            thread.submit(_close_connection)
            asking.submit(_close_connection)


def hire_process() -> Hired:
    """Start a storer as a process of its own."""
    running = Running.start("-m", "django", "runmail", "--skip-checks", "--storer-fd")
    return Hired(running.line, running.process.wait, running.process.kill)


def _close_connection() -> None:
    connection.close()  # looked up here, since each thread has its own
