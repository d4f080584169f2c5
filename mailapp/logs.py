"""How log lines look: plain or JSON, and so that what a stranger wrote can forge none.

With the standard library alone, since settings import it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import time
from functools import lru_cache
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

FORMS = {"plain": "mailapp.logs.LineFormatter", "json": "mailapp.logs.JsonFormatter"}
#: The log of each stream, and whose lines go there.
STREAMS = {
    "receiver": ["mailapp.receiver"],
    "worker": ["mailapp.worker", "mailapp.handlers", "mailapp.timers"],
    "relay": ["mailapp.relay"],
}
# Loggers that tell more than anybody wants to know of each request, query or session.
_QUIET = ["django", "django.server", "django.request", "mail.log"]


def logging_settings(
    *, form: str = "plain", level: str = "INFO", folder: str | Path | None = None
) -> dict[str, Any]:
    """Return Django's `LOGGING`: to standard error, or with a folder to files in it.

    The main log, `mail.log`, has it all; `receiver.log`, `worker.log` and `relay.log` what each
    stream says besides the ways of the mails. Standard error has only warnings then.
    """
    files = ["mail", *STREAMS] if folder else []
    streams = {name: stream for stream in STREAMS if folder for name in STREAMS[stream]}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"form": {"()": FORMS[form]}},
        "handlers": {
            "console": {
                "class": "logging.StreamHandler",
                "formatter": "form",
                "level": "WARNING" if folder else "NOTSET",
            },
            **{name: _file(Path(folder or ""), name) for name in files},
        },
        "root": {"handlers": ["console", *files[:1]], "level": level},
        "loggers": {
            **{name: {"handlers": [stream]} for name, stream in streams.items()},
            **{name: {"handlers": [], "level": "WARNING", "propagate": True} for name in _QUIET},
        },
    }


def _file(folder: Path, name: str) -> dict[str, Any]:
    return {
        "class": "mailapp.logs.LogFile",
        "filename": str(folder / f"{name}.log"),
        "formatter": "form",
        "delay": True,
        "encoding": "utf-8",
    }


class LogFile(WatchedFileHandler):
    """A file that several processes write to, opened anew when it was moved, as logrotate does.

    A line that cannot be written is on standard error, with the reason, and harms nobody.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # the standard library opens a file outside of what it guards
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        with contextlib.suppress(OSError):  # which may be in a file on the same disk
            sys.stderr.write(f"{self.baseFilename}: {error.strerror}: {self.format(record)}\n")

    def _open(self) -> TextIOWrapper:
        Path(self.baseFilename).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return super()._open()


_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_BELOW = "    "  # before each line of a traceback, so that none looks like the begin of a record


def escaped(text: str) -> str:
    r"""Write out all that is not printable, line ends among it.

    >>> escaped("Hello\nINFO mailapp: forged")
    'Hello\\nINFO mailapp: forged'
    """
    return text if text.isprintable() else _UNPRINTABLE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    return character if character.isprintable() else repr(character)[1:-1]


class LineFormatter(logging.Formatter):
    """A line for each record; what it cannot hold, such as a traceback, is indented below it."""

    def format(self, record: logging.LogRecord) -> str:
        message = escaped(record.getMessage())
        line = f"{_local(record)} {record.levelname:<7} {record.name}: {message}"
        if url := getattr(record, "mail", {}).get("url"):
            line = f"{line} {url}"
        below = _traceback(self, record).splitlines()
        return "\n".join([line, *(_BELOW + escaped(each) for each in below)]) if below else line


class JsonFormatter(logging.Formatter):
    """A JSON object on a line for each record: time (UTC), level, logger, process, message.

    With the facts of a mail's way beside them, and a traceback under `error`.
    """

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": f"{_second(int(record.created), utc=True)}.{int(record.msecs):03}Z",
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
            **getattr(record, "mail", {}),
        }
        if error := _traceback(self, record):
            entry["error"] = error
        return json.dumps(entry, default=str)


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if record.exc_info and not record.exc_text:
        record.exc_text = formatter.formatException(record.exc_info)
    parts = [record.exc_text, record.stack_info]
    return "\n".join(part for part in parts if part)


def _local(record: logging.LogRecord) -> str:
    return f"{_second(int(record.created), utc=False)},{int(record.msecs):03}"


@lru_cache(maxsize=4)  # of a second, in which there may be thousands of lines
def _second(at: int, *, utc: bool) -> str:
    if utc:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
