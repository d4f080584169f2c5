"""Where the receiver's mail goes: to the handlers' queue, many messages to a commit."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import logging
import queue
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from django.db import connection, transaction

from mailapp import wakeup
from mailapp.addresses import fold, split
from mailapp.conf import MailSettings
from mailapp.models import INCOMING, Message, NewMail
from mailapp.models.message import keep_large
from mailapp.registry import current_router
from mailapp.routing import Router

from . import replies
from .health import Health, places_of_mail

logger = logging.getLogger(__name__)

_GROUP_MAILS = 200
_GROUP_OCTETS = 8 * 1024 * 1024


class GroupCommit:
    """Stores the mails of many sessions in one thread; those that wait share a commit.

    A session that goes away while its mail is being stored changes nothing: the mail is
    stored whole or not at all.
    """

    def __init__(self, store: Callable[[Sequence[NewMail]], object]) -> None:
        """`store` keeps all mails that it is given, or raises and keeps none."""
        self._store = store
        self._waiting: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)

    def start(self) -> None:
        """Begin to store; in the thread of the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Store what waits, and return when that is done."""
        self._waiting.put(None)
        self._thread.join()

    async def store(self, mail: NewMail, patience: float) -> None:
        """Return when `mail` is committed; raise what the store raised.

        Raise TimeoutError after `patience` seconds; the mail may still be stored then.
        """
        pending = _Pending(mail, self._loop.create_future())
        alarm = self._loop.call_later(patience, _give_up, pending)
        self._waiting.put(pending)
        try:
            await pending.stored
        finally:
            alarm.cancel()

    def _run(self) -> None:
        try:
            while group := self._next_group():
                self._store_group(group)
                self._loop.call_soon_threadsafe(_answer, group)
        finally:
            connection.close()

    def _next_group(self) -> list[_Pending]:
        """Wait for a mail and take all that wait with it; empty at the end."""
        first = self._waiting.get()
        if first is None:
            return []
        group, octets = [first], len(first.mail.raw)
        while len(group) < _GROUP_MAILS and octets < _GROUP_OCTETS:
            try:
                more = self._waiting.get_nowait()
            except queue.Empty:
                break
            if more is None:
                self._waiting.put(None)
                break
            group.append(more)
            octets += len(more.mail.raw)
        return group

    def _store_group(self, group: list[_Pending]) -> None:
        try:
            self._store([pending.mail for pending in group])
        except Exception as error:
            connection.close_if_unusable_or_obsolete()
            if len(group) == 1:
                group[0].error = error
                return
            for pending in group:  # one bad mail must not take the others with it
                self._store_group([pending])


class _Pending:
    __slots__ = ("error", "mail", "stored")

    def __init__(self, mail: NewMail, stored: asyncio.Future[None]) -> None:
        self.mail = mail
        self.stored = stored
        self.error: Exception | None = None


def _give_up(pending: _Pending) -> None:
    if not pending.stored.done():
        pending.stored.set_exception(TimeoutError("the database is too slow"))


def _answer(group: list[_Pending]) -> None:
    for pending in group:
        if pending.stored.done():  # the session is gone
            continue
        if pending.error is None:
            pending.stored.set_result(None)
        else:
            pending.stored.set_exception(pending.error)


def store_incoming(mails: Sequence[NewMail]) -> None:
    """Commit mails to the handlers' queue and wake the workers."""
    with transaction.atomic():
        Message.objects.store(mails)
        wakeup.notify(INCOMING)


class Recipients:
    """Which recipients some enabled handler takes, by the router of the last refresh."""

    def __init__(self, newest_router: Callable[[], Router]) -> None:
        self._newest_router = newest_router
        self.refresh()

    def refresh(self) -> None:
        """Take the newest router. A query; not in the event loop."""
        self._router = self._newest_router()

    def refusal(self, recipient: str) -> bytes | None:
        """The reply that refuses a recipient; None when its mail is wanted."""
        local, domain = split(recipient)
        if domain not in self._router.hosts:
            return replies.RELAY_DENIED
        if fold(local) == "postmaster" or self._router.takes(recipient):
            return None
        return replies.NO_SUCH_RECIPIENT


class HandlersDestination:
    """Stores mail for the handlers."""

    def __init__(
        self,
        settings: MailSettings,
        recipients: Recipients,
        commits: GroupCommit,
        health: Health,
    ) -> None:
        self._settings = settings
        self._commits = commits
        self._health = health
        self.refusal = recipients.refusal

    def closed(self) -> bytes | None:
        """Nobody is let in when the database is away for long."""
        if self._health.seconds_away > self._settings.DATABASE_AWAY_SECONDS:
            return replies.DATABASE_AWAY_LONG
        return None

    def unavailable(self) -> bytes | None:
        """No mail is taken without a database, or with little space for it."""
        if self._health.seconds_away:
            return replies.DATABASE_AWAY
        if self._health.free_space < self._settings.MIN_FREE_SPACE:
            return replies.DISK_LOW
        return None

    async def store(self, mail: NewMail, spool: BinaryIO | None) -> bytes:
        """Commit a mail to the handlers' queue."""
        try:
            if spool is not None:
                mail = await asyncio.to_thread(_with_file, mail, spool)
            await self._commits.store(mail, self._settings.COMMIT_SECONDS)
        except Exception:
            number = secrets.token_hex(6)
            logger.exception("Error %s: a mail was not stored", number)
            return replies.with_id(replies.NOT_STORED, number)
        return replies.STORED


def _with_file(mail: NewMail, spool: BinaryIO) -> NewMail:
    size = spool.seek(0, io.SEEK_END)
    spool.seek(0)
    return dataclasses.replace(mail, file=keep_large(spool), file_size=size)


@contextlib.asynccontextmanager
async def handlers_destination(settings: MailSettings) -> AsyncIterator[HandlersDestination]:
    """Open the way to the handlers' queue; what waits to be stored is stored at the end."""
    loop = asyncio.get_running_loop()
    commits = GroupCommit(store_incoming)
    with ThreadPoolExecutor(1, thread_name_prefix="health") as thread:
        recipients = await loop.run_in_executor(thread, Recipients, _newest_router)
        health = Health(places_of_mail(settings), recipients.refresh, thread)
        look_after = asyncio.create_task(health.look_after())
        commits.start()
        try:
            yield HandlersDestination(settings, recipients, commits, health)
        finally:
            look_after.cancel()
            await asyncio.to_thread(commits.stop)
            thread.submit(connection.close)


def _newest_router() -> Router:
    try:
        return current_router(max_age=0)
    finally:
        connection.close_if_unusable_or_obsolete()
