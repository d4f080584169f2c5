"""What the smart host took, written down at once, so that a relay that is killed can be told.

A note is with the system as soon as it is written: it outlives the process, but no power cut.
What is settled in the database needs no note. No query, no network.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from io import FileIO
from pathlib import Path

from mailapp import filelock
from mailapp.conf import mail_settings
from mailapp.models import Taken

from .mailing import Sent

logger = logging.getLogger(__name__)

_SUFFIX = ".notes"


class Journal:
    """The notes of one relay: two pages, one to write on while what is on the other is settled.

    It holds their locks as long as it lives. Callers see to it that only one is in it at a time;
    but `strike` may be called while another writes.
    """

    def __init__(self) -> None:
        with _folder() as folder:
            self._page, self._turned = _Page(folder), _Page(folder)
        self._folder, self._ours = str(folder), {self._page.name, self._turned.name}
        self._closed = False

    def note(self, sent: Sent) -> None:
        """Write down what the smart host took of a mailing."""
        lines = "".join([_line(each) for each in sent.taken()])
        if not lines or self._closed:
            return
        try:
            self._page.write(lines.encode())
        except OSError as error:  # it is sent all the same
            logger.warning("What a kill of the relay would repeat cannot be noted: %s", error)

    def turn(self) -> None:
        """Go on with the other page."""
        self._page, self._turned = self._turned, self._page

    def strike(self) -> None:
        """Wipe the page that was turned: all that was noted before is settled."""
        self._turned.wipe()

    def is_alone(self) -> bool:
        """Say whether this machine has no other journal, of a relay that lives or is dead.

        That takes far less time than `hand_over`, which then has nothing to do.
        """
        try:
            names = os.listdir(self._folder)  # noqa: PTH208 - a Path takes longer
        except OSError:
            return False
        return all(name in self._ours or not name.endswith(_SUFFIX) for name in names)

    def close(self) -> None:
        """Leave to the next relay what is not settled, and nothing else."""
        self._closed = True
        for page in (self._page, self._turned):
            page.close()


class _Page:
    """A file of notes, there and locked when it is made."""

    def __init__(self, folder: Path) -> None:
        descriptor, path = tempfile.mkstemp(_SUFFIX, prefix=f"{os.getpid()}.", dir=folder)
        self._path = Path(path)
        self.name = self._path.name
        self._file = FileIO(descriptor, "wb")
        self.blank = True
        filelock.hold(self._file)

    def write(self, lines: bytes) -> None:
        self.blank = False
        while lines:  # what of it does not fit on the disk raises only at its own write
            lines = lines[self._file.write(lines) :]

    def wipe(self) -> None:
        if not self.blank:
            self._file.truncate(0)
            self._file.seek(0)
            self.blank = True

    def close(self) -> None:
        if self.blank:
            _remove(self._path)
        self._file.close()


def hand_over(settle: Callable[[list[Taken]], None]) -> None:
    """Have `settle` settle what dead relays of this machine had noted, and then forget it.

    It is called when one has died, even if that had nothing to note. Relays that begin, or do
    the same, wait meanwhile.
    """
    with _folder() as folder:
        left = dict(_left(folder))
        if left:
            settle([note for written in left.values() for note in _notes(written)])
        for path in left:
            _remove(path)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Give the folder of all journals of this machine; who else wants it waits."""
    path = Path(mail_settings().RUN_DIR) / "relay"
    path.mkdir(parents=True, exist_ok=True)
    with (path / "lock").open("wb") as lock:
        filelock.hold(lock)
        yield path


def _left(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for path in folder.glob(f"*{_SUFFIX}"):
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            if filelock.hold_if_free(file):
                yield path, file.read()


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # to settle it once more would change nothing
        path.unlink()


def _line(note: Taken) -> str:
    """Write a note as JSON; as a list, it would take the library twice the time."""
    claimed_at, ended_at = note.claimed_at.isoformat(), note.ended_at.isoformat()
    # The line end comes first: a line that was broken off spoils none but itself.
    return f'\n[{note.delivery}, "{claimed_at}", "{ended_at}", {json.dumps(note.reply)}]'


def _notes(written: bytes) -> Iterator[Taken]:
    for line in written.splitlines():
        with contextlib.suppress(ValueError):  # broken off, or empty
            delivery, claimed_at, ended_at, reply = json.loads(line)
            yield Taken(
                delivery=delivery,
                claimed_at=datetime.fromisoformat(claimed_at),
                ended_at=datetime.fromisoformat(ended_at),
                reply=reply,
            )
