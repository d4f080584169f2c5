"""Sends mail again that lies in mailboxes: over kept sessions, some at once, at a steady rate."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mailapp.dialogue import (
    DialogueFailed,
    Exit,
    Letter,
    Plan,
    Refused,
    Session,
    Transcript,
    session,
)
from mailapp.mailboxes import Broken, Found, open_mailbox
from mailapp.maildir import without_envelope

from .envelopes import envelope_of
from .results import Results

# With one of these, no mail could be sent by any session.
_NO_SESSION = {Exit.CONNECT, Exit.BANNER, Exit.HELO}


class Letters:
    """The mails of mailboxes as letters, in order, to be taken by any thread."""

    def __init__(
        self, mailboxes: Sequence[Path], sender: str | None, recipients: Sequence[str]
    ) -> None:
        """`sender` and `recipients`, if given, stand in for those of each mail."""
        self.broken: list[Broken] = []
        self._mailboxes = mailboxes
        self._sender = sender
        self._recipients = recipients

    def once(self) -> Iterator[Letter]:
        """Yield each. Raise NotAMailbox."""
        for path in self._mailboxes:
            with open_mailbox(path) as mailbox:
                for each in mailbox.mails():
                    if letter := self._letter(each):
                        yield letter

    def again_and_again(self) -> Iterator[Letter]:
        """Begin anew at the end, unless there are none at all."""
        while letter := next(letters := self.once(), None):
            yield letter
            yield from letters

    def _letter(self, each: Found | Broken) -> Letter | None:
        if isinstance(each, Broken):
            self._note(each)
            return None
        sender, named = envelope_of(each)
        recipients = self._recipients or named
        if not recipients:
            self._note(Broken(each.name, "nothing says whom it is for: name --to"))
            return None
        return Letter(
            sender=(sender or "") if self._sender is None else self._sender,
            recipients=recipients,
            content=without_envelope(each.content),
        )

    def _note(self, broken: Broken) -> None:
        if broken not in self.broken:
            self.broken.append(broken)


class Pace:
    """Lets mail go at a steady rate."""

    def __init__(self, rate: float | None, stopping: threading.Event) -> None:
        """`rate` is in mails a second; None: as fast as can be."""
        self._pause = 1 / rate if rate else 0
        self._stopping = stopping
        self._lock = threading.Lock()
        self._due = time.monotonic()

    def wait(self) -> None:
        """Return when it is the next mail's turn."""
        if not self._pause:
            return
        with self._lock:
            self._due = max(self._due, time.monotonic())
            mine = self._due
            self._due += self._pause
        self._stopping.wait(max(0, mine - time.monotonic()))


class Replay:
    """Sends letters by some threads, each with a session that it keeps."""

    def __init__(self, plan: Plan, letters: Iterator[Letter], rate: float | None) -> None:
        self.results = Results()
        self.ended_early = False  #: since no session can be had
        self._plan = plan
        self._letters = letters
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._pace = Pace(rate, self._stopping)

    def run(self, concurrency: int, tell: Callable[[int], object]) -> None:
        """Send all; `tell` is called with how many were tried, each time that one was.

        Raise what the letters raise. Ends early when no session can be had.
        """
        self._tell = tell
        with ThreadPoolExecutor(concurrency) as pool:
            threads = [pool.submit(self._send_all) for _ in range(concurrency)]
            try:
                for thread in threads:
                    thread.result()
            except BaseException:
                self._stopping.set()
                raise

    def _next(self) -> Letter | None:
        self._pace.wait()
        with self._lock:
            return None if self._stopping.is_set() else next(self._letters, None)

    def _count(self, failure: DialogueFailed | None) -> None:
        with self._lock:
            self.results.count(failure)
            self._tell(self.results.tried)

    def _send_all(self) -> None:
        letter = self._next()
        while letter is not None:
            try:
                with session(self._plan, Transcript(str)) as opened:
                    while letter is not None:
                        self._count(_refusal(opened, letter))
                        letter = self._next()
            except DialogueFailed as failure:
                self._count(failure)
                if failure.exit in _NO_SESSION:
                    self.ended_early = True
                    self._stopping.set()
                letter = self._next()


def _refusal(opened: Session, letter: Letter) -> DialogueFailed | None:
    """Send a letter; return the refusal if somebody does not get it.

    Raise DialogueFailed when the session is over.
    """
    try:
        refused = opened.send(letter)
    except Refused as refusal:
        if refusal.reason.startswith("421"):  # RFC 5321 3.8: the server closes
            raise
        return refusal
    return Refused(Exit.RCPT, next(iter(refused.values()))) if refused else None
