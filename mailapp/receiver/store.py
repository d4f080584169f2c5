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
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import BinaryIO

from django.db import (
    DatabaseError,
    InterfaceError,
    OperationalError,
    connection,
    transaction,
)

from mailapp import wakeup
from mailapp.addresses import fold, split
from mailapp.conf import MailSettings
from mailapp.models import INCOMING, Message, NewMail
from mailapp.models.message import keep_large
from mailapp.registry import current_router
from mailapp.routing import Router

from . import replies
from .health import Health, places_of_mail
from .listener import Kept
from .retries import Retries

logger = logging.getLogger(__name__)

_GROUP_MAILS = 200
_GROUP_OCTETS = 8 * 1024 * 1024


class GroupCommit:
    """Stores the mails of many sessions in one thread; those that wait share a commit.

    A session that goes away while its mail is being stored changes nothing: the mail is
    stored whole or not at all.
    """

    def __init__(
        self,
        store: Callable[[Sequence[NewMail]], Sequence[int | None]],
        note_unheard: Callable[[int], None],
    ) -> None:
        """`store` keeps all mails and returns a key for each, or raises and keeps none.

        `note_unheard` gets the key of a mail that was stored when its session had gone.
        """
        self._store = store
        self._note_unheard = note_unheard
        self._work: queue.SimpleQueue[_Pending | int | None] = queue.SimpleQueue()
        self._next: _Pending | int | None = None
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)

    def start(self) -> None:
        """Begin to store; in the thread of the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Store what waits, and return when that is done."""
        self._work.put(None)
        self._thread.join()

    async def store(self, mail: NewMail, patience: float) -> int | None:
        """Return the key of `mail` when it is committed; raise what the store raised.

        Raise TimeoutError after `patience` seconds; the mail may still be stored then.
        """
        pending = _Pending(mail, self._loop.create_future())
        alarm = self._loop.call_later(patience, pending.give_up)
        self._work.put(pending)
        try:
            return await pending.key
        finally:
            alarm.cancel()

    def unheard(self, key: int) -> None:
        """Have it noted, before anything that comes later is stored, that a 250 was not heard."""
        self._work.put(key)

    def _run(self) -> None:
        try:
            while (work := self._take()) is not None:
                if isinstance(work, list):
                    self._store_group(work)
                    self._note_late(work)
                    self._loop.call_soon_threadsafe(self._answer, work)
                else:
                    self._note(work)
        finally:
            connection.close()

    def _take(self) -> list[_Pending] | int | None:
        """Wait for work; mails that wait together come as a group. None at the end."""
        first = self._work.get() if self._next is None else self._next
        self._next = None
        if not isinstance(first, _Pending):
            return first
        group, octets = [first], len(first.mail.raw)
        while len(group) < _GROUP_MAILS and octets < _GROUP_OCTETS:
            try:
                more = self._work.get_nowait()
            except queue.Empty:
                break
            if more is None:
                self._work.put(None)
                break
            if not isinstance(more, _Pending):
                self._next = more
                break
            group.append(more)
            octets += len(more.mail.raw)
        return group

    def _store_group(self, group: list[_Pending]) -> None:
        try:
            results: Sequence[int | Exception | None]
            results = self._store([pending.mail for pending in group])
        except Exception as error:
            connection.close_if_unusable_or_obsolete()
            # A commit that broke off may have happened, and must not be made a second time.
            if len(group) > 1 and not isinstance(error, (OperationalError, InterfaceError)):
                for pending in group:  # one bad mail must not take the others with it
                    self._store_group([pending])
                return
            results = [error] * len(group)
        for pending, result in zip(group, results, strict=True):
            pending.result = result

    def _note_late(self, group: list[_Pending]) -> None:
        for pending in group:
            if pending.key.done() and isinstance(pending.result, int):
                self._note(pending.result)

    def _note(self, key: int) -> None:
        try:
            self._note_unheard(key)
        except Exception:
            connection.close_if_unusable_or_obsolete()
            logger.exception("It could not be noted that message %d is unheard", key)

    def _answer(self, group: list[_Pending]) -> None:
        for pending in group:
            if not pending.key.done():
                pending.answer()
            elif isinstance(pending.result, int):  # since `_note_late` looked
                self.unheard(pending.result)


class _Pending:
    """A mail that waits to be stored, and the session that waits for it."""

    __slots__ = ("key", "mail", "result")

    def __init__(self, mail: NewMail, key: asyncio.Future[int | None]) -> None:
        self.mail = mail
        self.key = key
        self.result: int | Exception | None = None

    def answer(self) -> None:
        """Tell the session."""
        if isinstance(self.result, Exception):
            self.key.set_exception(self.result)
        else:
            self.key.set_result(self.result)

    def give_up(self) -> None:
        """Tell the session that it took too long."""
        if not self.key.done():
            self.key.set_exception(TimeoutError("the database is too slow"))


class IncomingStore:
    """Commits mails to the handlers' queue and wakes the workers."""

    def __init__(self, retries: Retries) -> None:
        self._retries = retries

    def __call__(self, mails: Sequence[NewMail]) -> list[int | None]:
        """Store mails that are not stored already; return their keys, None for the others."""
        news = [self._retries.without_known(mail) for mail in mails]
        fresh = [mail for mail in news if mail is not None]
        if not fresh:
            return [None] * len(mails)
        with transaction.atomic():
            messages = iter(Message.objects.store(fresh))
            wakeup.notify(INCOMING)
        return [None if mail is None else next(messages).pk for mail in news]


class Recipients:
    """Which recipients some enabled handler takes, by the router of the last refresh."""

    def __init__(self, newest_router: Callable[[], Router]) -> None:
        self._newest_router = newest_router
        self.refresh()

    def refresh(self) -> None:
        """Take the newest router. A query; not in the event loop."""
        self._router = self._newest_router()

    def asks(self, recipient: str) -> bool:
        """Say whether `refusal` has to ask a handler, which may query the database."""
        return self._router.asks(recipient)

    def refusal(self, recipient: str) -> bytes | None:
        """The reply that refuses a recipient; None when its mail is wanted."""
        local, domain = split(recipient)
        if domain not in self._router.hosts:
            return replies.RELAY_DENIED
        if fold(local) == "postmaster" or self._router.accepts(recipient):
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
        if self._health.seconds_away:
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
        except Exception as error:
            return Kept(_not_stored(error))
        return Kept(replies.STORED, key)

    def unheard(self, key: int) -> None:
        """Recognise this mail when it is sent again."""
        self._commits.unheard(key)


def _not_stored(error: Exception) -> bytes:
    """Log an error under an id and return the reply with that id."""
    number = secrets.token_hex(6)
    known = isinstance(error, (DatabaseError, InterfaceError, OSError))
    logger.error(
        "Error %s: a mail was not stored: %r", number, error, exc_info=None if known else error
    )
    return replies.with_id(replies.NOT_STORED, number)


def _with_file(mail: NewMail, spool: BinaryIO) -> NewMail:
    size = spool.seek(0, io.SEEK_END)
    spool.seek(0)
    return dataclasses.replace(mail, file=keep_large(spool), file_size=size)


@contextlib.asynccontextmanager
async def handlers_destination(settings: MailSettings) -> AsyncIterator[HandlersDestination]:
    """Open the way to the handlers' queue; what waits to be stored is stored at the end."""
    loop = asyncio.get_running_loop()
    retries = Retries(settings.RETRY_DAYS)
    commits = GroupCommit(IncomingStore(retries), lambda key: retries.note([key]))
    with (
        ThreadPoolExecutor(1, thread_name_prefix="health") as thread,
        ThreadPoolExecutor(1, thread_name_prefix="recipients") as asking,
    ):
        await loop.run_in_executor(thread, retries.note_after_crash)
        recipients = await loop.run_in_executor(thread, Recipients, _newest_router)
        health = Health(places_of_mail(settings), _looks(recipients, retries), thread)
        look_after = asyncio.create_task(health.look_after())
        commits.start()
        try:
            yield HandlersDestination(settings, recipients, commits, health, asking)
        finally:
            look_after.cancel()
            await asyncio.to_thread(commits.stop)
            thread.submit(_close_connection)
            asking.submit(_close_connection)


def _close_connection() -> None:
    connection.close()  # looked up here, since each thread has its own


def _looks(recipients: Recipients, retries: Retries) -> Callable[[], None]:
    def look() -> None:
        recipients.refresh()
        retries.refresh()

    return look


def _newest_router() -> Router:
    try:
        return current_router(max_age=0)
    finally:
        connection.close_if_unusable_or_obsolete()
