"""What `mailqueue` sees in a queue of the database and in a Maildir, and what it does there."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Protocol

from mailapp import mime, operating
from mailapp.errors import BadAddress, MailError
from mailapp.maildir import Maildir, arrival, open_plain, read_envelope
from mailapp.models import OPERATOR_MAY, UNENDED, Delivery, DeliveryQuerySet, Queue, Status
from mailapp.pickup import reasons
from mailapp.storage import sync_folder

_IN_QUEUE = (*UNENDED, Status.HELD)
_PIECE = 65536
_BY_US = "with manage.py mailqueue"
_PAST = {"retry": "retried", "hold": "held", "release": "released", "discard": "removed"}

Write = Callable[[bytes], object]


class NoSuchKey(MailError):
    """There is no mail with this key"""


class MayNot(MailError):
    """That cannot be done to this mail"""


class NotForMaildirs(MailError):
    """A Maildir is a folder of files: nothing in it is tried, so nothing is held or tried again"""


@dataclass(frozen=True)
class Entry:
    """A mail in a queue, as the list shows it."""

    key: str
    status: str  #: of the delivery; of a file `new` or `cur` and its flags
    arrived: str  #: ISO 8601, UTC
    size: int  #: octets
    sender: str | None  #: None: nothing tells
    recipients: Sequence[str]
    subject: str
    reply: str = ""  #: the last reply, or why it is here
    attempts: int = 0


class Place(Protocol):
    """A queue or a Maildir. What it is asked of a key that is not there raises NoSuchKey."""

    def count(self) -> dict[str, int]:
        """How many mails there are, by status."""

    def keys(self) -> Iterator[str]:
        """The keys of all mails, the oldest first."""

    def entries(self) -> Iterator[Entry]:
        """All mails, the oldest first."""

    def entry(self, key: str) -> Entry:
        """One mail."""

    def content(self, key: str) -> Iterator[bytes]:
        """All bytes of a mail, in pieces."""

    def pop(self, write: Write) -> bool:
        """Write the oldest mail, and remove it once that is done; False if there is none."""

    def act(self, verb: str, keys: Sequence[str] | None) -> int:
        """Retry, hold, release or discard mails, or all that are open to it; return how many.

        Raise MayNot, and do nothing, if one of the keys is not open to it.
        """


@dataclass(frozen=True)
class DatabaseQueue:
    """The deliveries of a queue that are not done. A claimed one is its worker's."""

    queue: Queue

    def count(self) -> dict[str, int]:
        counts = {str(status): self._all().filter(status=status).count() for status in _IN_QUEUE}
        return {status: number for status, number in counts.items() if number}

    def keys(self) -> Iterator[str]:
        return map(str, self._waiting().values_list("pk", flat=True).iterator())

    def entries(self) -> Iterator[Entry]:
        rows = self._waiting().select_related("message")
        return (_entry_of(row) for row in rows.iterator())

    def entry(self, key: str) -> Entry:
        return _entry_of(self._row(key))

    def content(self, key: str) -> Iterator[bytes]:
        return self._row(key).message.raw_message.chunks()

    def pop(self, write: Write) -> bool:
        while row := self._waiting().exclude(status=Status.CLAIMED).first():
            only = Delivery.objects.filter(pk=row.pk)
            is_ours = row.status == Status.HELD or operating.act(only, "hold", f"Popped {_BY_US}")
            if not is_ours:  # a worker was quicker
                continue
            try:
                for chunk in row.message.raw_message.chunks():
                    write(chunk)
            except BaseException:
                if row.status != Status.HELD:
                    operating.act(only, "release", "")
                raise
            if not operating.act(only, "discard", f"Popped {_BY_US}"):
                raise MayNot(f"{row.pk} was taken by somebody else, too, while it was written")
            return True
        return False

    def act(self, verb: str, keys: Sequence[str] | None) -> int:
        if keys is None:
            wanted = self._waiting()
        else:
            rows = [self._row(key) for key in keys]
            for row in rows:
                if row.status not in OPERATOR_MAY[verb]:
                    raise MayNot(f"{row.pk} is {row.status}, and cannot be {_PAST[verb]}")
            wanted = self._all().filter(pk__in=[row.pk for row in rows])
        return operating.act(wanted, verb, f"{_PAST[verb].capitalize()} {_BY_US}")

    def _all(self) -> DeliveryQuerySet:
        return Delivery.objects.filter(queue=self.queue)

    def _waiting(self) -> DeliveryQuerySet:
        return self._all().filter(status__in=_IN_QUEUE).order_by("id")

    def _row(self, key: str) -> Delivery:
        found = self._all().select_related("message").filter(pk=key) if _is_id(key) else None
        if found is None or (row := found.first()) is None:
            raise NoSuchKey(key)
        return row


def _is_id(key: str) -> bool:
    return key.isascii() and key.isdigit() and len(key) < 19


def _entry_of(row: Delivery) -> Entry:
    return Entry(
        key=str(row.pk),
        status=row.status,
        arrived=_moment(row.created_at),
        size=row.message.size,
        sender=row.message.sender,
        recipients=[row.recipient],
        subject=row.message.subject,
        reply=row.reply,
        attempts=row.attempts,
    )


@dataclass(frozen=True)
class MaildirQueue:
    """The mails of a Maildir, read and unread."""

    maildir: Maildir

    def count(self) -> dict[str, int]:
        counts = Counter(path.parent.name for _, path in self._paths())
        return dict(sorted(counts.items(), reverse=True))

    def keys(self) -> Iterator[str]:
        return (key for key, _ in self._paths())

    def entries(self) -> Iterator[Entry]:
        why = reasons(self.maildir)
        for key, path in self._paths():
            with contextlib.suppress(FileNotFoundError):
                yield _entry_of_file(key, path, why(key))

    def _paths(self) -> Iterator[tuple[str, Path]]:
        for key in self.maildir.in_order():
            with contextlib.suppress(KeyError):  # somebody has taken it meanwhile
                yield key, self.maildir.path_of(key)

    def entry(self, key: str) -> Entry:
        path = self._path(key)
        return _entry_of_file(key, path, reasons(self.maildir)(key))

    def content(self, key: str) -> Iterator[bytes]:
        with open_plain(self._path(key)) as file:
            yield from iter(partial(file.read, _PIECE), b"")

    def pop(self, write: Write) -> bool:
        with self.maildir.taken_alone():
            for key in self.keys():
                for piece in self.content(key):
                    write(piece)
                self._remove([key])
                return True
        return False

    def act(self, verb: str, keys: Sequence[str] | None) -> int:
        if verb != "discard":
            raise NotForMaildirs
        if keys is None:
            return self._remove(self.maildir.in_order())
        return self._remove([key for key in keys if self._path(key)])

    def _remove(self, keys: Sequence[str]) -> int:
        for key in keys:
            self.maildir.discard(key)
        for folder in ("new", "cur"):
            sync_folder(self.maildir.path / folder)
        return len(keys)

    def _path(self, key: str) -> Path:
        try:
            return self.maildir.path_of(key)
        except KeyError as error:
            raise NoSuchKey(key) from error


def _entry_of_file(key: str, path: Path, reason: str) -> Entry:
    seconds, microseconds, _ = arrival(path)
    begin, size = b"", 0
    try:
        with open_plain(path) as file:
            begin, size = file.read(_PIECE), os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = reason or f"it cannot be read: {error.strerror}"
    sender, recipients = _envelope(begin)
    return Entry(
        key=key,
        status=_status(path),
        arrived=_moment(datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds)),
        size=size,
        sender=sender,
        recipients=recipients,
        subject=mime.head_columns(begin).subject,
        reply=reason,
    )


def _envelope(begin: bytes) -> tuple[str | None, Sequence[str]]:
    try:
        return read_envelope(begin)
    except BadAddress:
        return None, []


def _status(path: Path) -> str:
    _, _, flags = path.name.partition(":2,")
    return f"{path.parent.name} {flags}".strip()


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def place_of(target: Queue | Maildir) -> Place:
    """Return what can be done with a target."""
    return MaildirQueue(target) if isinstance(target, Maildir) else DatabaseQueue(target)
