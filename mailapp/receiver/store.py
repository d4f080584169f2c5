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
from typing import BinaryIO

from django.db import DatabaseError, connection, transaction

from mailapp import wakeup
from mailapp.addresses import fold, split
from mailapp.models import INCOMING, Message, NewMail
from mailapp.models.message import keep_large
from mailapp.registry import current_router
from mailapp.routing import Router

from . import replies

logger = logging.getLogger(__name__)

_REFRESH_SECONDS = 1.0  # how soon a handler that was switched off stops taking recipients
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

    async def store(self, mail: NewMail) -> None:
        """Return when `mail` is committed; raise what the store raised."""
        pending = _Pending(mail, self._loop.create_future())
        self._waiting.put(pending)
        await pending.stored

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

    def __init__(self, recipients: Recipients, commits: GroupCommit) -> None:
        self.refusal = recipients.refusal
        self._commits = commits

    def unavailable(self) -> bytes | None:
        """Nothing stops this destination in advance."""
        return None

    async def store(self, mail: NewMail, spool: BinaryIO | None) -> bytes:
        """Commit a mail to the handlers' queue."""
        try:
            if spool is not None:
                mail = await asyncio.to_thread(_with_file, mail, spool)
            await self._commits.store(mail)
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
async def handlers_destination() -> AsyncIterator[HandlersDestination]:
    """Open the way to the handlers' queue; what waits to be stored is stored at the end."""
    recipients = await asyncio.to_thread(Recipients, _newest_router)
    commits = GroupCommit(store_incoming)
    commits.start()
    refreshing = asyncio.create_task(_refresh(recipients))
    try:
        yield HandlersDestination(recipients, commits)
    finally:
        refreshing.cancel()
        await asyncio.to_thread(commits.stop)


def _newest_router() -> Router:
    try:
        return current_router(max_age=0)
    finally:
        connection.close_if_unusable_or_obsolete()


async def _refresh(recipients: Recipients) -> None:
    while True:
        await asyncio.sleep(_REFRESH_SECONDS)
        try:
            await asyncio.to_thread(recipients.refresh)
        except DatabaseError as error:
            logger.warning("Handlers are as they were: the database does not answer (%s)", error)
