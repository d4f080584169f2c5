"""Remove what is old; the workers do it once a day by themselves."""

from __future__ import annotations

import argparse
from typing import Any

from mailapp import housekeeping
from mailapp.management.command import MailCommand
from mailapp.management.starting import check_tables


class Command(MailCommand):
    help = """
    Remove mail, history and processes that MAIL["KEEP"] keeps no longer, and files of large
    messages that no message names. Workers do so once a day; other mail goes on meanwhile.

    Example: manage.py cleanmail --dry-run
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="only say what would go")

    def handle(self, *args: Any, dry_run: bool, **options: Any) -> None:
        verb = "Would remove" if dry_run else "Removed"
        check_tables()
        for told in housekeeping.in_words(housekeeping.clean(dry_run=dry_run)):
            self.stdout.write(f"{verb} {told}")
