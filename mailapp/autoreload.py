"""Notices, for development, that code or templates have changed. What cannot be loaded is told.

Django's autoreload decides which files are watched.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from django.apps import apps
from django.conf import settings
from django.utils import autoreload

from mailapp.children import environment
from mailapp.conf import mail_settings

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1

Files = Mapping[Path, float]  #: when each was changed last


def is_wanted() -> bool:
    """Say whether code is to be loaded anew: with DEBUG and our own workers, unless it is off."""
    conf = mail_settings()
    return settings.DEBUG and conf.ENGINE == "local" and conf.RELOAD


@contextlib.contextmanager
def watching(act: Callable[[], object], since: float) -> Iterator[None]:
    """Within the body, call `act`, in a thread, after each change that leaves code to be loaded.

    `since` is a moment before any of it was loaded (Unix time).
    """
    ended = threading.Event()
    arguments = (act, ended, since)
    threading.Thread(target=_watch, args=arguments, name="autoreload", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _watch(act: Callable[[], object], ended: threading.Event, since: float) -> None:
    watched = autoreload.StatReloader()
    autoreload.autoreload_started.send(sender=watched)  # Django adds the folders of templates
    for path in _folders_of_apps():
        watched.watch_dir(path, "**/*.py")
    looked_at, before = since, dict[Path, float]()
    while not ended.wait(_LOOK_SECONDS):
        began, now = time.time(), dict(watched.snapshot_files())
        if changed := changes(before, now, looked_at):
            _tell_or_act(changed, act)
        looked_at, before = began, now


def _folders_of_apps() -> Iterator[Path]:
    """The folders of apps with handlers, in which a module may be new."""
    for app in apps.get_app_configs():
        if (Path(app.path) / "handlers").is_dir() or (Path(app.path) / "handlers.py").is_file():
            yield Path(app.path)


def changes(before: Files, now: Files, looked_at: float) -> set[Path]:
    """Return the files that changed, came or went.

    A file that is seen for the first time, since only now a module of it is loaded, but was
    written before `looked_at`, is no change.
    """
    gone = before.keys() - now.keys()
    new = {path for path in now.keys() - before.keys() if now[path] >= looked_at}
    return gone | new | {path for path in now.keys() & before.keys() if now[path] != before[path]}


def _tell_or_act(changed: set[Path], act: Callable[[], object]) -> None:
    some = ", ".join(sorted(path.name for path in changed)[:3])
    if fault := _fault():
        logger.error("%s changed, but the old code goes on, since this fails: %s", some, fault)
    else:
        logger.info("%s changed: the handlers are loaded anew", some)
        act()


def _fault() -> str:
    """Say why the code cannot be loaded; "" when it can. By a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "django", "check", "--tag", "mail"],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    return _end_of_traceback(done.stderr) if done.returncode else ""


def _end_of_traceback(said: str) -> str:
    lines = said.strip().splitlines()
    last = max((at for at, line in enumerate(lines) if line.startswith('  File "')), default=0)
    return " ".join(line.strip() for line in lines[last:])
