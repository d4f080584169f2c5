"""Who runs in a folder: a file with the id of a process, which locks it as long as it lives.

The lock is the truth. What an unlocked file says is about a process that is gone, and whose id
another one may have by now.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from mailapp import filelock
from mailapp.conf import mail_settings
from mailapp.errors import OfAnotherUser, PidFileUnusable, RunsAlready


class PidFile:
    """A pid file, and beside it the command, its places, and the file that its children lock, too.

    Everything raises PidFileUnusable where the system does not let us.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._children = path.with_suffix(".children")
        self._command = path.with_suffix(".command")
        self._places = path.with_suffix(".places")

    @classmethod
    def of(cls, name: str) -> PidFile:
        """The one of that name on this machine."""
        return cls(Path(mail_settings().RUN_DIR) / f"{name}.pid")

    @classmethod
    def of_runmail(cls) -> PidFile:
        """The one of `runmail` on this machine."""
        return cls.of("runmail")

    @classmethod
    def here(cls) -> list[PidFile]:
        """Those on this machine that a process holds, or was killed with, by name."""
        commands = sorted(Path(mail_settings().RUN_DIR).glob("*.command"))
        return [cls(path.with_suffix(".pid")) for path in commands]

    @property
    def name(self) -> str:
        """What it is called, such as `runmail`."""
        return self.path.stem

    @property
    def command(self) -> list[str]:
        """What was started and holds or held it: a command of `manage.py` and its arguments."""
        try:
            return json.loads(self._command.read_text())
        except FileNotFoundError:
            return [self.name]

    @property
    def places(self) -> list[str]:
        """Where what holds or held it listens, as far as it has said so."""
        try:
            return json.loads(self._places.read_text())
        except FileNotFoundError:
            return []

    @contextlib.contextmanager
    def held(self, command: Sequence[str] = (), places: Sequence[str] = ()) -> Iterator[int]:
        """Hold the file within the body; yield the descriptor that each child has to inherit.

        `command` is what starts all of it again; without one, that is its name. `places` are where
        it listens.
        Children may outlive a process that was killed, to finish what they have in hand, and have
        its ports until then: wait for them. Raise RunsAlready.
        """
        with self._take(command, places) as file, self._children.open("ab") as children:
            try:
                if not filelock.hold_within(children, patience()):
                    raise RunsAlready(f"what a killed {self.name} had started does not end")
                yield children.fileno()
            finally:
                self._give_up(file)

    def pid(self) -> int | None:
        """The process that holds the file; None when none does, whatever the file says."""
        with self._alone():
            return self._holder()

    def send(self, number: signal.Signals) -> int | None:
        """Signal the process that holds the file and return its id; None when none does.

        Raise OfAnotherUser.
        """
        with self._alone():
            if pid := self._holder():
                try:
                    os.kill(pid, number)  # it lived a moment ago, and ids are long in coming again
                except ProcessLookupError:
                    pass
                except PermissionError as error:
                    raise OfAnotherUser(f"process {pid}, which holds {self.path}") from error
            return pid

    def left_by(self) -> int | None:
        """The process that is gone and could not remove the file; None when none left it so."""
        with self._alone():
            return None if self._holder() else self._read()

    def is_over(self, pid: int | None) -> bool:
        """Say whether a process that held the file has ended with its children.

        None stands for one that was killed, whose children may end yet.
        """
        with self._alone():
            if holder := self._holder():
                return holder != pid
            return _is_free(self._children)

    def _take(self, command: Sequence[str], places: Sequence[str]) -> IO[bytes]:
        with self._alone():
            file = self.path.open("a+b")
            if not filelock.hold_if_free(file):
                file.close()
                raise RunsAlready(
                    f"process {self._read()} holds {self.path}; manage.py stopmail ends it"
                )
            self._command.write_text(json.dumps(list(command) or [self.name]))
            self._places.write_text(json.dumps(list(places)))
            file.truncate(0)
            file.write(b"%d\n" % os.getpid())
            file.flush()
            return file

    def _give_up(self, file: IO[bytes]) -> None:
        with self._alone(), file, contextlib.suppress(OSError):  # what is left is free
            self.path.unlink()
            self._command.unlink()
            self._places.unlink()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no other process look at the file or take it, lest it reads who held it before."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                filelock.hold(folder)
                yield
            finally:
                os.close(folder)
        except OSError as error:
            raise PidFileUnusable(f"{self.path}: {error.strerror}") from error

    def _holder(self) -> int | None:
        return None if _is_free(self.path) else self._read()

    def _read(self) -> int | None:
        try:
            return int(self.path.read_bytes())
        except (FileNotFoundError, ValueError):
            return None


def _is_free(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return filelock.hold_if_free(file)
    except FileNotFoundError:
        return True


def patience() -> float:
    """Seconds in which everything ends that was asked to: the catcher after all the rest."""
    return 2 * mail_settings().DRAIN_SECONDS + 1
