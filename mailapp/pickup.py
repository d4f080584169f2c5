"""Takes the mail that another server leaves in a Maildir into a queue: stored, then removed.

The commit that stores a mail notes so, under the name and the bytes of its file, and the note
goes once the file is gone. So whoever finds a file that is noted, after a crash, has only to
remove it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from django.db import Error, IntegrityError, connection
from django.utils import timezone

from mailapp import turns
from mailapp.addresses import at_host
from mailapp.conf import mail_settings
from mailapp.errors import BadAddress
from mailapp.lifecycle import Life
from mailapp.logs import escaped
from mailapp.mailboxes import as_received
from mailapp.maildir import Maildir, open_plain, read_recipients, read_sender
from mailapp.mime import visible
from mailapp.models import INCOMING, Message, NewMail, Unheard
from mailapp.receiver.recipients import Recipients
from mailapp.registry import current_router
from mailapp.routing import Router
from mailapp.storage import sync_folder

logger = logging.getLogger(__name__)

ERRORS = "errors"  #: the subfolder for what cannot be taken
REASONS = "reasons.txt"  #: in it: a line for each
_LOOK_SECONDS = 1.0
_PROTOCOL = "MAILDIR"
_OCTETS_IN_HAND = 8 * 1024 * 1024


class _Unfit(Exception):
    """Says why a file cannot be taken, now or later."""


class _Gone(Exception):
    """Somebody has taken a file that was read."""


@dataclass
class _Found:
    """A mail that was read from its file."""

    path: Path
    mail: NewMail
    mark: str  #: under which it is noted as stored
    refused: str  #: which of its recipients do not get it, and why


@dataclass
class Pickup:
    """Takes mail of one Maildir. Any number of them, on whatever machines, may share it."""

    maildir: Maildir
    queue: str = INCOMING
    to: Sequence[str] = ()  #: the recipients, in place of those that a mail names
    taken: int = 0
    put_aside: int = 0
    _listed: deque[Path] = field(default_factory=deque)

    @property
    def errors(self) -> Path:
        """Where the subfolder for what cannot be taken is, or will be."""
        return self.maildir.path / f".{ERRORS}"

    def take(self) -> bool:
        """Take the oldest mails, as many as a worker claims at once; say whether to go on.

        What cannot be taken goes to the subfolder `errors`, with its reason in a file there. When
        the database or a disk fails, that is raised, and what is not stored stays where it is.
        """
        with self.maildir.taken_alone():
            if not self._listed:
                self._listed.extend(self.maildir.arrivals())
            before = self.taken + self.put_aside
            self._take(list(self._read_some()))
            return bool(self._listed) or self.taken + self.put_aside > before

    def _read_some(self) -> Iterator[_Found]:
        recipients, octets = Recipients(self._router), 0
        for _ in range(min(mail_settings().BATCH_SIZE, len(self._listed))):
            path = self._listed.popleft()
            try:
                found = self._read(path, recipients)
            except FileNotFoundError:  # somebody else has taken or read it
                continue
            except _Unfit as why:
                self._put_aside(path, str(why))
                continue
            except Error:
                raise
            except Exception:  # of a function marked with @accepts
                logger.exception("%s stays in new", visible(path.name))
                continue
            yield found
            octets += len(found.mail.raw)
            if octets > _OCTETS_IN_HAND:
                break

    def _router(self) -> Router:
        return current_router(max_age=0, queue=self.queue)

    def _read(self, path: Path, recipients: Recipients) -> _Found:
        content = _content(path)
        sender, choices = self._envelope(content)
        accepted, refused = _chosen(choices, recipients)
        mail = NewMail(
            raw=as_received(content),
            sender=sender,
            recipients=accepted,
            queue=self.queue,
            protocol=_PROTOCOL,
        )
        return _Found(path, mail, _mark(path, content), refused)

    def _envelope(self, content: bytes) -> tuple[str, Sequence[Sequence[str]]]:
        """Return the sender, and the recipients as each of the fields has them."""
        try:
            sender = read_sender(content)
            choices = [self.to] if self.to else list(read_recipients(content))
        except BadAddress as error:
            raise _Unfit(str(error)) from error
        if sender is None:
            raise _Unfit("no Return-Path on top of it says who sent it")
        if not choices:
            raise _Unfit("no X-Original-To, Envelope-To or Delivered-To on top says whom it is for")
        host = mail_settings().HOSTS[0]
        return sender, [[at_host(each, host) for each in named] for named in choices]

    def _take(self, batch: Sequence[_Found]) -> None:
        """Store what is not stored yet, then have it gone from `new`, then drop the notes."""
        if not batch:
            return
        known = Unheard.objects.known(each.mark for each in batch)
        _store([each for each in batch if each.mark not in known])
        for each in batch:
            if each.refused:
                self._put_aside(each.path, each.refused)
            else:
                each.path.unlink(missing_ok=True)
                self.taken += 1
        sync_folder(self.maildir.path / "new")
        Unheard.objects.drop(each.mark for each in batch)

    def _put_aside(self, path: Path, why: str) -> None:
        """Move a file, or whatever it is, to the subfolder `errors`, as it is."""
        errors = self.maildir.subfolder(ERRORS)
        aside = errors.free_place(path.name)
        with (errors.path / REASONS).open("a", encoding="utf-8") as file:
            file.write(f"{timezone.now():%Y-%m-%d %H:%M:%S} {_key(aside.name)}: {why}\n")
        with contextlib.suppress(FileNotFoundError):
            path.rename(aside)
            sync_folder(aside.parent)
            self.put_aside += 1
            logger.warning("%s is put aside: %s", visible(path.name), why)


def reasons(maildir: Maildir) -> Callable[[str], str]:
    """Return what tells by its name or key why a mail is in a subfolder `errors`.

    Of another Maildir it tells nothing.
    """
    try:
        lines = (maildir.path / REASONS).read_text("utf-8", "replace").split("\n")
    except FileNotFoundError:
        return lambda name: ""
    stamped = (line.partition(" ")[2].partition(" ")[2] for line in lines)
    known = {key: why for key, _, why in (line.partition(": ") for line in stamped)}
    return lambda name: known.get(_key(name), "")


def _key(name: str) -> str:
    """What a reader does not change of a file's name, on one line and without a colon."""
    return escaped(name.partition(":")[0])


def _chosen(choices: Sequence[Sequence[str]], recipients: Recipients) -> tuple[Sequence[str], str]:
    """Return the first recipients of whom handlers take any, and why they do not take the rest.

    Another server's aliases may stand between the first ones and the ones that we know.
    """
    said = []
    for named in choices:
        refusals = {each: recipients.refusal(each) for each in named}
        refused = ", ".join(f"{each}: {why.decode()}" for each, why in refusals.items() if why)
        if accepted := [each for each, why in refusals.items() if not why]:
            return accepted, refused
        said.append(refused)
    raise _Unfit(", ".join(dict.fromkeys(said)))


def _content(path: Path) -> bytes:
    """Read a file. Raise _Unfit, FileNotFoundError."""
    try:
        with open_plain(path) as file:
            _check_size(os.fstat(file.fileno()).st_size)
            return file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _Unfit(f"it cannot be read: {error.strerror}") from error


def _check_size(size: int) -> None:
    most = mail_settings().MAX_MESSAGE_SIZE
    if not size:
        raise _Unfit("it is empty")
    if size > most:
        raise _Unfit(f'it has {size} octets, and MAIL["MAX_MESSAGE_SIZE"] is {most}')


def _mark(path: Path, content: bytes) -> str:
    """What tells a mail from any other: the name that its file has for ever, and its bytes."""
    name = os.fsencode(path.name).partition(b":")[0]  # then come flags, which readers change
    return hashlib.sha256(b"\0".join([b"maildir", name, content])).hexdigest()


def _store(batch: Sequence[_Found]) -> None:
    """Commit mails, each with a note of it, but for those that another pickup takes just now."""
    if not batch:
        return
    try:
        with turns.atomic():
            keys = Message.objects.store([each.mail for each in batch])
            Unheard.objects.remember(zip((each.mark for each in batch), keys, strict=True))
            # On a disk whose locks do not reach everybody, it may have been taken before we noted.
            if not all(each.path.exists() for each in batch):
                raise _Gone
    except (IntegrityError, _Gone) as error:
        if len(batch) > 1:
            for each in batch:
                _store([each])
        elif isinstance(error, IntegrityError) and _is_nobody_elses(batch[0]):
            raise


def _is_nobody_elses(found: _Found) -> bool:
    # In this order: the note goes after the file.
    return not Unheard.objects.known([found.mark]) and found.path.exists()


@contextlib.contextmanager
def watching(pickup: Pickup, life: Life) -> Iterator[None]:
    """Take mail within the block as it comes, in a thread of its own, until `life` is to stop."""
    thread = threading.Thread(target=_watch, args=(pickup, life), name="pickup", daemon=True)
    thread.start()
    try:
        yield
    finally:
        life.stop()
        thread.join(mail_settings().DRAIN_SECONDS)


def _watch(pickup: Pickup, life: Life) -> None:
    try:
        while not life.stopping.wait(_take_all(pickup, life)):
            pass
    finally:
        connection.close()
        life.stop()


def _take_all(pickup: Pickup, life: Life) -> float:
    """Take what there is; return for how many seconds to rest."""
    try:
        while not life.stopping.is_set() and pickup.take():
            pass
    except Exception:
        logger.exception("No mail is taken; trying again")
        connection.close()
        return mail_settings().POLL_SECONDS
    return _LOOK_SECONDS
