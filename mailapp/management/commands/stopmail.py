"""End what runs here in good order."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from mailapp.management import background
from mailapp.management.command import MailCommand
from mailapp.pidfile import PidFile


class Command(MailCommand):
    help = """
    End what runs on this machine, with no message half done, and return when all of it has
    ended: runmail, and what runs with --detach. Where nothing runs, say so.

    Example: manage.py stopmail
             manage.py stopmail runworker
             manage.py stopmail --all run
    """
    requires_system_checks = ()

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        which = parser.add_mutually_exclusive_group()
        which.add_argument("names", nargs="*", default=[], metavar="NAME", help="end this alone")
        which.add_argument(
            "--all", metavar="FOLDER", help="end what each pid file in this folder stands for"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        pid_files = _pid_files(options["all"], options["names"])
        for pid_file in pid_files:
            self.stdout.write(background.stop(pid_file))
        if not pid_files:
            self.stdout.write(f"Nothing runs there: {options['all']} has no pid file.")


def _pid_files(folder: str | None, names: Sequence[str]) -> list[PidFile]:
    if folder is None:
        return background.chosen(names)
    try:
        paths = sorted(path for path in Path(folder).iterdir() if path.suffix == ".pid")
    except OSError as error:
        raise CommandError(f"{folder}: {error.strerror}") from error
    return [PidFile(path) for path in paths]
