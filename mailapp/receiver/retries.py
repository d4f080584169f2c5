"""Retries of mail that was stored though its 250 was not heard: answered, not stored again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from django.utils import timezone

from mailapp import filelock
from mailapp.conf import mail_settings
from mailapp.models import Message, NewMail, Process, Unheard
from mailapp.models.unheard import digests

_FORGET_SECONDS = 3600.0
_REFRESH_SECONDS = 1.0
_COMMIT_TIME = timedelta(minutes=1)
_LAST_MAILS = 500  # more than can be between a commit and its replies when a process is killed


class Retries:
    """Knows what was stored unheard, by this process and by all others.

    Where nothing was, which is the rule, it costs a mail nothing.
    """

    def __init__(self, days: float) -> None:
        self._days = days
        self._known: set[str] = set()
        self._looked_at = timezone.now()
        self._forget_at = self._refresh_at = 0.0

    def keep_fresh(self) -> None:
        """Refresh, unless that was done a moment ago."""
        if time.monotonic() >= self._refresh_at:
            self.refresh()

    def refresh(self) -> None:
        """Learn what other processes noted, and now and then forget what is old."""
        began = timezone.now()
        if time.monotonic() >= self._forget_at:
            self._forget_at = time.monotonic() + _FORGET_SECONDS
            self._known = _noted_since(began - timedelta(days=self._days))
        else:
            # What commits late has an early time, so look back a little.
            self._known |= _noted_since(self._looked_at - _COMMIT_TIME)
        self._looked_at = began
        self._refresh_at = time.monotonic() + _REFRESH_SECONDS

    def note(self, messages: Sequence[int]) -> None:
        """Remember messages whose senders may not know that they are stored."""
        Unheard.objects.note(messages)
        self.refresh()

    def note_since(self, moment: datetime) -> None:
        """Remember the last mails that came in since then: the storer died over some of them."""
        self.note([key for key, _ in _last_mails(since=moment)])

    def note_after_crash(self) -> None:
        """Remember the last mails of receivers of this machine that were killed.

        Their replies may not have gone out. It is done once for each of them.
        """
        for process in Process.objects.killed_here(Process.Kind.RECEIVER):
            _wait_for_storer(process.pid)
            window = timedelta(seconds=2 * mail_settings().HEARTBEAT_SECONDS)
            last = _last_mails(since=process.heartbeat_at)
            self.note([key for key, at in last if at <= process.heartbeat_at + window])
            process.stop()

    def without_known(self, mail: NewMail) -> NewMail | None:
        """Return the mail for those recipients that do not have it; None when all do."""
        if not self._known:
            return mail
        found = digests(mail.chunks(), mail.sender, mail.recipients)
        missing = [recipient for recipient in found if found[recipient] not in self._known]
        if len(missing) == len(mail.recipients):
            return mail
        return mail._replace(recipients=missing) if missing else None


def _noted_since(moment: datetime) -> set[str]:
    return set(Unheard.objects.since(moment).values_list("digest", flat=True))


def _last_mails(since: datetime) -> list[tuple[int, datetime]]:
    """The keys and times of the last mails that came in, by the primary key and so at no cost."""
    incoming = Message.objects.exclude(protocol="").order_by("-pk")
    last = incoming.values_list("pk", "created_at")[:_LAST_MAILS]
    return [(key, at) for key, at in last if at >= since]


@contextlib.contextmanager
def held_by_storer(receiver: int) -> Iterator[None]:
    """Hold, as long as this process lives, the lock by which it is known to store for `receiver`.

    A storer outlives a receiver that is killed, to finish what it has in hand.
    """
    path = _lock_path(receiver)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        filelock.hold(file)
        yield
        _remove(path)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # a lock that is left behind is free, and as good as none
        path.unlink()


def _wait_for_storer(receiver: int) -> None:
    """Return when the storer of a receiver that was killed has ended, too, unless it hangs."""
    path = _lock_path(receiver)
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        filelock.hold_within(file, mail_settings().COMMIT_SECONDS)
        _remove(path)


def _lock_path(receiver: int) -> Path:
    return Path(mail_settings().RUN_DIR) / "storers" / str(receiver)
