"""The process that stores the mail of one receiver: many mails to a commit.

It is a process of its own so that it and the receiver need not wait for each other's turn with
the interpreter, of which each commit takes ten.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple

from django.db import (
    DatabaseError,
    Error,
    InterfaceError,
    OperationalError,
    connection,
)
from django.utils import timezone

from mailapp import way
from mailapp.conf import mail_settings
from mailapp.lifecycle import keep_what_is_loaded
from mailapp.models import Message, NewMail

from .line import StorersLine
from .retries import Retries, held_by_storer

logger = logging.getLogger(__name__)


class Work(NamedTuple):
    """What a receiver hands over at once."""

    mails: Sequence[NewMail]
    unheard: Sequence[int] = ()  #: mails that were stored, whose 250 may not have been heard
    unheard_since: datetime | None = None  #: all that were stored since then are such mails

    @classmethod
    def of(cls, mails: Sequence[Sequence[Any]], *unheard: Any) -> Work:
        """Return the work that `plain` gave in this form."""
        return cls([NewMail(*mail) for mail in mails], *unheard)

    def plain(self) -> tuple[Any, ...]:
        """Return the same in tuples without names, which are pickled in a third of the time."""
        return [tuple(mail) for mail in self.mails], self.unheard, self.unheard_since


def merged(works: Sequence[Work]) -> Work:
    """Return what was handed over bit by bit as if it had been handed over at once."""
    if len(works) == 1:
        return works[0]
    return Work(
        [mail for work in works for mail in work.mails],
        [key for work in works for key in work.unheard],
        min((work.unheard_since for work in works if work.unheard_since), default=None),
    )


class Failure(NamedTuple):
    """A mail was not stored; the log tells why under this number."""

    number: str


#: A commit that ended so may have happened all the same, and must not be made a second time.
BROKEN_OFF = (OperationalError, InterfaceError)

#: The key of a mail, or None when it is stored already.
Result = int | Failure | None


def run(fd: int) -> None:
    """Store what the receiver at the other end of a socket hands over, until that end closes."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the receiver decides when it is over
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=fd) as ours, held_by_storer(os.getppid()):
        keep_what_is_loaded()
        try:
            serve(StorersLine(ours))
        except Error as error:
            logger.error("The storer cannot start: %r", error)  # noqa: TRY400 - known well


def serve(line: StorersLine, do: Callable[[Work], Sequence[Result]] | None = None) -> None:
    """Answer each work with its results until the line closes; by default store it.

    What was handed over meanwhile is done together.
    """
    try:
        with suppress(EOFError, ConnectionError):
            do = do or handlers_storer()
            line.say(None)
            while True:
                works = [Work.of(*said) for said in line.hear()]
                work = merged(works)
                results = do(work)
                left = iter(results)
                try:
                    line.say([list(islice(left, len(each.mails))) for each in works])
                finally:  # it is stored, even if the receiver has gone
                    _tell_of(work.mails, results)
    finally:
        connection.close()


def _tell_of(mails: Sequence[NewMail], results: Sequence[Result]) -> None:
    """Log what was stored, now that nobody waits for it."""
    for mail, result in zip(mails, results, strict=True):
        if isinstance(result, int):
            way.accepted(result, mail)


def handlers_storer() -> Storer:
    """Return what stores mail for the handlers, once it knows what was stored unheard."""
    retries = Retries(mail_settings().RETRY_DAYS)
    retries.note_after_crash()
    return Storer(retries)


class Storer:
    """Does the work of one receiver."""

    def __init__(self, retries: Retries) -> None:
        self._retries = retries
        self._unheard: list[int] = []  # what is yet to be noted
        self._unheard_since: list[datetime] = []

    def __call__(self, work: Work) -> list[Result]:
        """Note what was not heard, then store the mails; say what became of each."""
        self._unheard += work.unheard
        if work.unheard_since is not None:
            self._unheard_since.append(work.unheard_since)
        return store_group(self._note_and_store, work.mails)

    def _note_and_store(self, mails: Sequence[NewMail]) -> list[int | None]:
        self._note()
        began = timezone.now()
        try:
            return store_new(mails, self._retries)
        except BROKEN_OFF:
            self._unheard_since.append(began)
            raise

    def _note(self) -> None:
        """Note what is not noted yet; before that nothing may be stored, lest it comes twice."""
        if self._unheard_since:
            self._retries.note_since(min(self._unheard_since))
            self._unheard_since.clear()
        if self._unheard:
            self._retries.note(self._unheard)
            self._unheard.clear()
        self._retries.keep_fresh()


def store_group(
    store: Callable[[Sequence[NewMail]], Sequence[int | None]], mails: Sequence[NewMail]
) -> list[Result]:
    """Store mails by a function that keeps all and returns their keys, or raises and keeps none."""
    try:
        return list(store(mails))
    except Exception as error:
        connection.close_if_unusable_or_obsolete()
        if len(mails) > 1 and not isinstance(error, BROKEN_OFF):
            # One bad mail must not take the others with it.
            return [result for mail in mails for result in store_group(store, [mail])]
        return [_failure(error, len(mails))] * len(mails)


def _failure(error: Exception, count: int) -> Failure:
    """Log why mails were not stored, under a number."""
    number = secrets.token_hex(6)
    known = isinstance(error, (DatabaseError, InterfaceError, OSError))
    logger.error("Error %s: not stored, mails: %d: %r", number, count, error, exc_info=not known)
    return Failure(number)


def store_new(mails: Sequence[NewMail], retries: Retries) -> list[int | None]:
    """Commit mails that are not stored already; return their keys, None for the others."""
    news = [retries.without_known(mail) for mail in mails]
    keys = iter(Message.objects.store([mail for mail in news if mail is not None]))
    return [None if mail is None else next(keys) for mail in news]
