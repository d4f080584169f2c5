"""Retries of mail that was stored though its 250 was not heard: answered, not stored again."""

from __future__ import annotations

import dataclasses
import os
import socket
import time
from collections.abc import Sequence
from datetime import timedelta

from mailapp.conf import mail_settings
from mailapp.models import Message, NewMail, Process, Unheard
from mailapp.models.unheard import digests

_FORGET_SECONDS = 3600.0
_LAST_MAILS = 500  # more than can be between a commit and its replies when a process is killed


class Retries:
    """Knows what was stored unheard, by this process and by all others.

    Where nothing was, which is the rule, it costs a mail nothing.
    """

    def __init__(self, days: float) -> None:
        self._days = days
        self._known: set[str] = set()
        self._last = 0
        self._forget_at = 0.0

    def refresh(self) -> None:
        """Learn what other processes noted, and now and then forget what is old."""
        if time.monotonic() >= self._forget_at:
            Unheard.objects.forget(self._days)
            self._forget_at = time.monotonic() + _FORGET_SECONDS
            self._known = self._noted_after(0)
        else:
            self._known |= self._noted_after(self._last)

    def _noted_after(self, last: int) -> set[str]:
        news = dict(Unheard.objects.filter(pk__gt=last).values_list("pk", "digest"))
        self._last = max(news, default=last)
        return set(news.values())

    def note(self, messages: Sequence[int]) -> None:
        """Remember messages whose senders may not know that they are stored."""
        Unheard.objects.note(messages)
        self.refresh()

    def note_after_crash(self) -> None:
        """Remember the last mails of receivers of this machine that were killed.

        Their replies may not have gone out. It is done once for each of them.
        """
        for process in _killed_here():
            window = timedelta(seconds=2 * mail_settings().HEARTBEAT_SECONDS)
            last = Message.objects.exclude(protocol="").filter(
                created_at__range=(process.heartbeat_at, process.heartbeat_at + window)
            )
            self.note(list(last.order_by("-pk").values_list("pk", flat=True)[:_LAST_MAILS]))
            process.stop()

    def without_known(self, mail: NewMail) -> NewMail | None:
        """Return the mail for those recipients that do not have it; None when all do."""
        if not self._known:
            return mail
        found = digests(mail.chunks(), mail.sender, mail.recipients)
        missing = [recipient for recipient in found if found[recipient] not in self._known]
        if len(missing) == len(mail.recipients):
            return mail
        return dataclasses.replace(mail, recipients=missing) if missing else None


def _killed_here() -> list[Process]:
    mine = Process.objects.filter(kind=Process.Kind.RECEIVER, host=socket.gethostname()[:255])
    unfinished = mine.filter(stopped_at=None).exclude(pid=os.getpid())
    return [process for process in unfinished if not _is_running(process.pid)]


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it runs, but not as us
    return True
