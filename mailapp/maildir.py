"""Maildirs: a folder with a file for each mail, which no lock guards and a reader may share.

As https://cr.yp.to/proto/maildir.html has it. The standard library reads and writes them; here
are the names that nobody else makes, the sync of the folder, and the order of arrival. No database.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import mailbox
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from mailapp import charsets, filelock
from mailapp.addresses import whole
from mailapp.storage import sync_folder

_HALF_SECONDS = 36 * 3600  # after which who writes a mail has given up, says the format
_ARRIVAL = re.compile(r"(\d+)\.(?:[^.:]*?M(\d+))?")
_numbers = itertools.count(1)


class Maildir(mailbox.Maildir):
    """A Maildir whose mails are on disk, under a name of their own, before `add` returns."""

    def __init__(self, path: str | os.PathLike[str], *, create: bool = False) -> None:
        """Make the folders if asked to. Raise `mailbox.NoSuchMailboxError` if there are none."""
        self.path = Path(path)
        if create:
            self._make_folders()
        if not (self.path / "new").is_dir():
            raise mailbox.NoSuchMailboxError(os.fspath(path))
        super().__init__(self.path, create=False)

    def _make_folders(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for name in ("", "tmp", "new", "cur"):
            (self.path / name).mkdir(mode=0o700, exist_ok=True)
        sync_folder(self.path)
        sync_folder(self.path.parent)

    def add(self, message: Any) -> str:
        """Keep a mail (bytes, a file, or what the standard library takes); return its key.

        It is written in `tmp`, synced, and named in `new`; then that folder is synced. Raise
        OSError, and keep nothing, when any of that fails.
        """
        key = _unique_name()
        half, place = self.path / "tmp" / key, self.path / "new" / key
        try:
            with open(half, "xb", opener=_for_its_owner_alone) as file:
                self._dump_message(message, file)
                file.flush()
                os.fsync(file.fileno())
            if isinstance(message, mailbox.MaildirMessage):
                place = self.path / message.get_subdir() / f"{key}:{message.get_info()}".rstrip(":")
                os.utime(half, (time.time(), message.get_date()))
            half.rename(place)
            sync_folder(place.parent)
        except BaseException:  # who is told so will bring it again
            half.unlink(missing_ok=True)
            place.unlink(missing_ok=True)
            raise
        return key

    def in_order(self) -> list[str]:
        """The keys of all mails, read and unread, the oldest first."""
        return sorted(self.keys(), key=lambda key: arrival(self.path_of(key)))

    def path_of(self, key: str) -> Path:
        """Where a mail is now; a reader may move it from `new` to `cur`. Raise KeyError."""
        return self.path / self._lookup(key)  # type: ignore[attr-defined]

    def arrivals(self) -> list[Path]:
        """What is in `new`, be it a mail or not, the oldest first."""
        with os.scandir(self.path / "new") as entries:
            found = [Path(entry.path) for entry in entries if not entry.name.startswith(".")]
        return sorted(found, key=arrival)

    def subfolder(self, name: str) -> Maildir:
        """A Maildir within this one, as readers know them; made when it is first asked for."""
        folder = Maildir(self.path / f".{name}", create=True)
        (folder.path / "maildirfolder").touch()
        return folder

    def free_place(self, name: str) -> Path:
        """A path in `new` that nothing has, called `name` if that is free."""
        place = self.path / "new" / name
        while os.path.lexists(place):
            place = place.with_name(f"{_unique_name()}.{name}")
        return place

    def remove_halves(self) -> None:
        """Remove what was begun in `tmp` 36 hours ago or more, and never ended."""
        with os.scandir(self.path / "tmp") as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.stat().st_mtime < time.time() - _HALF_SECONDS:
                        Path(entry.path).unlink()

    @contextlib.contextmanager
    def taken_alone(self) -> Iterator[None]:
        """Be the only process that takes mail away, of those that ask; wait until that is so."""
        with (self.path / "taking.lock").open("ab") as file:
            filelock.hold(file)
            yield


def open_plain(path: Path) -> BinaryIO:
    """Open a plain file; raise OSError for all else, such as a pipe that would have us wait."""
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "Not a plain file")
    return os.fdopen(number, "rb")


def arrival(path: Path) -> tuple[int, int, str]:
    """When a mail came, by the seconds and microseconds in its name, else by its file's time."""
    if found := _ARRIVAL.match(path.name):
        return int(found[1]), int(found[2] or 0), path.name
    try:
        nanoseconds = path.lstat().st_mtime_ns
    except OSError:  # gone, or moved by a reader
        nanoseconds = 0
    return nanoseconds // 10**9, nanoseconds % 10**9 // 1000, path.name


def file_name(seconds: int, microseconds: int, tells_apart: str) -> str:
    """Name a mail by the time that `arrival` reads, and by what tells it from others of then."""
    host = socket.gethostname().replace("/", r"\057").replace(":", r"\072")
    return f"{seconds}.M{microseconds:06}{tells_apart}.{host}"


def _for_its_owner_alone(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _unique_name() -> str:
    """A name that no process on any machine has given before or will."""
    tells_apart = f"R{secrets.token_hex(8)}P{os.getpid()}Q{next(_numbers)}"
    return file_name(*divmod(time.time_ns() // 1000, 10**6), tells_apart)


# The envelope, which a file has no other place for: trace fields on top of the mail.


class Envelope(NamedTuple):
    """Sender and recipients of a mail in a Maildir; `sender` is None where nothing tells it."""

    sender: str | None
    recipients: list[str]


_RETURN_PATH = "Return-Path"
#: Whom it was for when it came in, before a server's own aliases; then whom it was delivered to.
_RECIPIENTS = ("X-Original-To", "Envelope-To", "Delivered-To")
_TRACE = re.compile(
    rb"(return-path|x-original-to|envelope-to|delivered-to|delivery-date)[ \t]*:([^\n]*)\n",
    re.IGNORECASE,
)


def envelope_fields(sender: str, recipients: Sequence[str]) -> bytes:
    """Write the trace fields that tell an envelope."""
    lines = [f"{_RETURN_PATH}: <{sender}>"]
    lines += [f"{_RECIPIENTS[-1]}: {recipient}" for recipient in recipients]
    return "".join(f"{line}\n" for line in lines).encode()


def read_envelope(raw: bytes) -> Envelope:
    """Read the envelope that the server who filled the Maildir wrote on top of a mail.

    Only there: what follows other fields may be written by anybody. Raise BadAddress.
    """
    return Envelope(read_sender(raw), next(read_recipients(raw), []))


def read_sender(raw: bytes) -> str | None:
    """Read the sender as `read_envelope` does."""
    for name, value in _trace_fields(raw):
        if name == _RETURN_PATH.lower():
            return _address(value) if value.strip("<> \t") else ""
    return None


def read_recipients(raw: bytes) -> Iterator[list[str]]:
    """Yield the recipients as each kind of field has them; `read_envelope` takes the first."""
    fields = list(_trace_fields(raw))
    for wanted in _RECIPIENTS:
        if named := [value for name, value in fields if name == wanted.lower()]:
            yield list(dict.fromkeys(map(_address, named)))


def without_envelope(raw: bytes) -> bytes:
    r"""Return a mail without what `read_envelope` reads, for who sends it with an envelope again.

    >>> without_envelope(b"Return-Path: <a@b.test>\r\nDelivered-To: c@d.test\r\nSubject: x\r\n")
    b'Subject: x\r\n'
    """
    at = 0
    while found := _TRACE.match(raw, at):
        at = found.end()
    return raw[at:]


def _trace_fields(raw: bytes) -> Iterator[tuple[str, str]]:
    at = 0
    while found := _TRACE.match(raw, at):
        at = found.end()
        yield found[1].decode().lower(), charsets.to_text(found[2], None).strip()


def _address(written: str) -> str:
    return whole(written[1:-1] if written.startswith("<") and written.endswith(">") else written)
