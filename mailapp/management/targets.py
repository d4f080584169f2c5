"""What a command works on, as it is written on its line: a queue by name, or a Maildir by path."""

from __future__ import annotations

import mailbox
import re
from pathlib import Path

from django.core.management.base import CommandError
from django.db import DatabaseError

from mailapp.maildir import Maildir
from mailapp.models import Queue

from .starting import check_tables, database_away

_NAME = re.compile(r"[A-Za-z0-9_-]+")


def queue_or_maildir(text: str) -> Queue | Maildir:
    """Return the queue of that name; what has more than a name, such as a slash, is a path.

    Raise CommandError, in words for who typed it.
    """
    if not text:
        raise CommandError("Name a queue, or the path of a Maildir.")
    return _queue(text) if is_name(text) else _maildir(text)


def is_name(text: str) -> bool:
    """Say whether it can be the name of a queue, and so is no path."""
    return _NAME.fullmatch(text) is not None


def find_queue(name: str) -> Queue | None:
    """Return the queue of that name; what can be no name is none."""
    return Queue.objects.filter(name=name).first() if is_name(name) else None


def expect_handlers_work(name: str) -> None:
    """Raise CommandError unless there is a queue of that name for handlers."""
    queue = find_queue(name)
    if queue is None or queue.purpose != Queue.Purpose.HANDLERS:
        raise CommandError(f"There is no queue {name} that handlers work.")


def _queue(name: str) -> Queue:
    try:
        queue = find_queue(name)
        known = ", ".join(Queue.objects.values_list("name", flat=True))
    except DatabaseError as error:
        check_tables()
        raise database_away(error) from error
    if queue is None:
        folder = f" For the folder, write ./{name}." if Path(name).is_dir() else ""
        raise CommandError(f"There is no queue {name}, but there are {known}.{folder}")
    return queue


def _maildir(path: str) -> Maildir:
    try:
        return Maildir(path)
    except mailbox.NoSuchMailboxError as error:
        raise CommandError(f"{path} is no Maildir: it has no folder new.") from error
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error
