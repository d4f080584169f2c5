"""Whether mail can be kept: does the database answer, is there space on our disks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path

from django.core.files.storage import storages
from django.db import DatabaseError, InterfaceError, connection

from mailapp.conf import MailSettings

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # also how soon a handler that was switched off stops taking recipients
_SLOW_SECONDS = 4.0  # a database that takes longer to answer counts as away


def places_of_mail(settings: MailSettings) -> list[Path]:
    """Return the folders that mail is written to on this machine."""
    folders = [Path(settings.RUN_DIR)]
    with contextlib.suppress(NotImplementedError):
        folders.append(Path(storages["mail"].path("")))
    if connection.vendor == "sqlite":
        folders.append(Path(connection.settings_dict["NAME"]).parent)
    return folders


class Health:
    """What was found at the last look."""

    def __init__(
        self, folders: Sequence[Path], ask_database: Callable[[], None], thread: Executor
    ) -> None:
        """`ask_database` makes a query, in `thread`."""
        self.free_space = 0
        self._folders = folders
        self._ask_database = ask_database
        self._thread = thread
        self._away_since: float | None = None
        self._look_at_disks()

    @property
    def seconds_away(self) -> float:
        """How long the database has not answered; 0 when it does."""
        return 0 if self._away_since is None else time.monotonic() - self._away_since

    async def look_after(self) -> None:
        """Look every second, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._look_at_disks()
            asking = loop.run_in_executor(self._thread, self._ask_database)
            await asyncio.wait([asking], timeout=_SLOW_SECONDS)
            if not asking.done():
                self._note_absence("it takes its time")
                await asyncio.wait([asking])
            self._note(asking)

    def _note(self, asking: asyncio.Future[None]) -> None:
        try:
            asking.result()
        except (DatabaseError, InterfaceError) as error:
            self._note_absence(str(error))
        except Exception:
            logger.exception("The handlers are as they were")
        else:
            if self._away_since is not None:
                logger.warning("The database answers again after %.1f s", self.seconds_away)
            self._away_since = None

    def _note_absence(self, reason: str) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            logger.error("The database does not answer: %r", reason)

    def _look_at_disks(self) -> None:
        self.free_space = min(map(_free_space, self._folders), default=0)


def _free_space(folder: Path) -> int:
    """Octets that are free where a folder is or would be made; none when that cannot be told."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError as error:
        logger.error("No space is known of in %s: %r", folder, error)  # noqa: TRY400
        return 0
