"""Kills `deq` with SIGKILL before each thing that it cannot take back, in turn, and runs it again.

A program of its own, since it forks: `python -m tests.acceptance.dying_deq FOLDER [STEP]`, where
only each STEPth act is one to die before. Each run has a Maildir and a person of its own. It prints
a line for whatever was lost or repeated, and one when all is done.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import django

MAILS = 3
RAW = b"Subject: Hello\n\nHello.\n"
_WRITES = ("INSERT", "UPDATE", "DELETE", "SELECT mailapp_")
_FILE_ACTS = ("fsync", "link", "rename", "unlink")


class Death:
    """Counts what cannot be taken back, and kills this process before the one of that number."""

    def __init__(self, number: int) -> None:
        self._left = number

    def next(self) -> None:
        self._left -= 1
        if self._left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def acting(*args: Any, **kwargs: Any) -> Any:
            self.next()
            return act(*args, **kwargs)

        return acting

    def write(self, execute: Callable[..., Any], sql: str, *args: Any) -> Any:
        if sql.lstrip().startswith(_WRITES):
            self.next()
        return execute(sql, *args)

    @contextmanager
    def awaits(self) -> Iterator[None]:
        """Have the rest of this process die in time."""
        from django.db import connection
        from django.db.backends.base.base import BaseDatabaseWrapper

        for name in _FILE_ACTS:
            setattr(os, name, self.before(getattr(os, name)))
        BaseDatabaseWrapper._commit = self.before(BaseDatabaseWrapper._commit)
        with connection.execute_wrapper(self.write):
            yield


def run(folder: Path, number: int) -> bool:
    """Have deq die before act `number`; say whether it came so far."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or status == 0, f"deq ended by itself: {status}"
        return os.WIFSIGNALED(status)
    try:
        with Death(number).awaits():
            deq(folder)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def deq(folder: Path) -> None:
    from django.db import connection

    from mailapp.maildir import Maildir
    from mailapp.management.commands import deq
    from mailapp.pickup import Pickup

    deq.work_off(deq.Job("incoming", Pickup(Maildir(folder))))
    connection.close()


def fill(folder: Path, person: str) -> None:
    from mailapp.maildir import Maildir, envelope_fields

    maildir = Maildir(folder, create=True)
    for _ in range(MAILS):
        maildir.add(envelope_fields(person, ["mail-count@localhost"]) + RAW)
    maildir.add(envelope_fields(person, ["mail-count@localhost", "x@elsewhere.test"]) + RAW)
    maildir.add(RAW)


def faults(folder: Path, person: str) -> Iterator[str]:
    """Say what was lost, or done twice."""
    from mailapp.models import Attempt, Delivery, Message, Transition

    mails = MAILS + 1
    counts = {
        "messages": Message.objects.filter(sender=person).count(),
        "done": Delivery.objects.filter(message__sender=person, status="done").count(),
        "tries": Attempt.objects.filter(delivery__message__sender=person, outcome="done").count(),
        "transitions": Transition.objects.filter(conversation__person=person).count(),
        "answers": Delivery.objects.filter(recipient=person, queue="outgoing").count(),
    }
    yield from (f"{number} {what} of {mails}" for what, number in counts.items() if number != mails)
    in_new = len(list((folder / "new").iterdir()))
    aside = len(list((folder / ".errors/new").iterdir()))
    if (in_new, aside) != (0, 2):
        yield f"{in_new} in new, {aside} put aside"


def main(top: Path, step: int) -> None:
    from django.db import connection

    from mailapp import registry

    registry.sync()
    for number in count(step=step):
        folder, person = top / str(number), f"reader-{number}@client.test"
        fill(folder, person)
        connection.close()
        died = run(folder, number)
        deq(folder)
        for fault in faults(folder, person):
            print(f"Killed before act {number}: {fault}")
        if not died:
            print(f"All of {number} acts survived")
            return


if __name__ == "__main__":
    django.setup()
    main(Path(sys.argv[1]), int(*sys.argv[2:] or [1]))
