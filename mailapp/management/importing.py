"""Imports mail: what is kept is marked as such at once, so that a second time adds nothing."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from django.db import DataError, IntegrityError

from mailapp import failures, turns
from mailapp.addresses import split
from mailapp.conf import mail_settings
from mailapp.mailboxes import Broken, Found, as_filed
from mailapp.maildir import Maildir, file_name
from mailapp.models import INCOMING, Delivery, Imported, Message, NewMail
from mailapp.storage import sync_folder

from .envelopes import envelope_of

_PROTOCOL = "IMPORT"
_REASON = "Imported, and not handled; release it to have it handled"
_MAILS_AT_ONCE = 100
_OCTETS_AT_ONCE = 8 * 1024 * 1024


class Letter(NamedTuple):
    """A mail that is to be imported."""

    name: str
    raw: bytes
    sender: str
    recipients: Sequence[str]

    def mark(self, target: str) -> str:
        """Return what tells it from any other mail that goes there."""
        envelope = "\0".join([target, self.sender, *self.recipients, ""])
        return hashlib.sha256(envelope.encode() + self.raw).hexdigest()


class Target(Protocol):
    """Where mail goes."""

    @property
    def name(self) -> str:
        """What tells its marks from those of other targets, where they lie beside each other."""

    def known(self, marks: Iterable[str]) -> set[str]:
        """Return the marks of what is there already."""

    def keep(self, letters: Mapping[str, Letter]) -> list[Broken]:
        """Have letters there, on disk, under their marks; return those that cannot be kept."""


class Importer:
    """Imports mail step by step, and counts it."""

    def __init__(self, target: Target, to: Sequence[str] = (), *, dry_run: bool = False) -> None:
        """`to` are the recipients, in place of those that a mail names."""
        self.imported = 0
        self.known = 0
        self.broken: list[Broken] = []
        self._target = target
        self._to = to
        self._dry_run = dry_run

    @property
    def seen(self) -> int:
        """How many mails were looked at."""
        return self.imported + self.known + len(self.broken)

    def run(self, mails: Iterable[Found | Broken]) -> Iterator[None]:
        """Import these, and yield after each step, which is a commit."""
        for batch in _batches(self._letters(mails)):
            self._import(batch)
            yield

    def _letters(self, mails: Iterable[Found | Broken]) -> Iterator[Letter]:
        for each in mails:
            if isinstance(each, Broken):
                self.broken.append(each)
            elif not each.content.strip():
                self.broken.append(Broken(each.name, "it is empty"))
            else:
                sender, recipients = envelope_of(each)
                yield Letter(each.name, each.content, sender or "", self._to or _ours(recipients))

    def _import(self, batch: Sequence[Letter]) -> None:
        marked = {each.mark(self._target.name): each for each in batch}
        known = self._target.known(marked)
        new = {mark: each for mark, each in marked.items() if mark not in known}
        broken = [] if self._dry_run else self._target.keep(new)
        self.broken += broken
        self.imported += len(new) - len(broken)
        self.known += len(batch) - len(new)


def _ours(recipients: Sequence[str]) -> Sequence[str]:
    """Return those at our hosts, or if none is, all; somebody has to have it."""
    hosts = mail_settings().HOSTS
    ours = [each for each in recipients if split(each)[1] in hosts]
    return ours or recipients or [f"postmaster@{mail_settings().hostname}"]


def _batches(letters: Iterable[Letter]) -> Iterator[list[Letter]]:
    batch: list[Letter] = []
    octets = 0
    for letter in letters:
        batch.append(letter)
        octets += len(letter.raw)
        if len(batch) == _MAILS_AT_ONCE or octets >= _OCTETS_AT_ONCE:
            yield batch
            batch, octets = [], 0
    if batch:
        yield batch


class QueueTarget:
    """A queue, in which mail is held, or from which handlers take it."""

    def __init__(self, name: str, *, handled: bool) -> None:
        self.name = name
        self._handled = handled

    def known(self, marks: Iterable[str]) -> set[str]:
        """Return the marks of what was imported."""
        return Imported.objects.known(marks)

    def keep(self, letters: Mapping[str, Letter]) -> list[Broken]:
        """Store letters with their marks, all in one commit; a bad one does not keep out others."""
        try:
            with turns.atomic():
                self._store(letters)
        except (DataError, IntegrityError) as error:
            if len(letters) > 1:
                return [bad for each in letters.items() for bad in self.keep(dict([each]))]
            if self.known(letters):  # somebody else has imported it meanwhile
                return []
            reason = failures.in_one_line(error)
            return [Broken(letter.name, reason) for letter in letters.values()]
        return []

    def _store(self, letters: Mapping[str, Letter]) -> None:
        keys = Message.objects.store(
            [
                NewMail(
                    raw=letter.raw,
                    sender=letter.sender,
                    recipients=letter.recipients,
                    queue=self.name if self._handled else INCOMING,
                    protocol=_PROTOCOL,
                )
                for letter in letters.values()
            ]
        )
        Imported.objects.remember(zip(letters, keys, strict=True))
        if not self._handled:
            stored = Delivery.objects.filter(message__in=keys)
            stored.hold(_REASON)
            stored.update(queue=self.name)


class MaildirTarget:
    """A Maildir, in which the mark is a part of the name of a file."""

    name = ""  # its marks lie in it alone, wherever it is and however its path is written
    _MARKED = re.compile(r"\.M\d+I([0-9a-f]{64})")

    def __init__(self, path: Path) -> None:
        """Make it if it is not there. Raise OSError."""
        self._maildir = Maildir(path, create=True)
        found = map(self._MARKED.search, self._maildir.keys())
        self._marks = {each[1] for each in found if each}
        self._microsecond = 0

    def known(self, marks: Iterable[str]) -> set[str]:
        """Return the marks of what is there."""
        return self._marks.intersection(marks)

    def keep(self, letters: Mapping[str, Letter]) -> list[Broken]:
        """Write letters to `tmp`, have them on disk, and then name them in `new`."""
        names = {mark: self._name(mark) for mark in letters}
        for mark, letter in letters.items():
            (self._maildir.path / "tmp" / names[mark]).write_bytes(as_filed(letter.raw))
        os.sync()  # for each by itself it takes fifty times as long
        for name in names.values():
            (self._maildir.path / "tmp" / name).rename(self._maildir.path / "new" / name)
        sync_folder(self._maildir.path / "new")
        self._marks.update(letters)
        return []

    def _name(self, mark: str) -> str:
        # The next microsecond, if need be: the names tell the order.
        self._microsecond = max(time.time_ns() // 1000, self._microsecond + 1)
        return file_name(*divmod(self._microsecond, 10**6), f"I{mark}")
