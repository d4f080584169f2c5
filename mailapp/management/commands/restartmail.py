"""End the mail server and start it again in the background, with the code as it is now."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from mailapp.errors import PidFileUnusable
from mailapp.management import background
from mailapp.management.starting import check
from mailapp.pidfile import PidFile


class Command(BaseCommand):
    help = """
    End what runmail has started on this machine and start it again, detached. What would
    keep it from starting is said before anything is ended: then the old one goes on.

    Example: manage.py restartmail
    """

    def handle(self, *args: Any, **options: Any) -> None:
        check()
        try:
            self.stdout.write(background.stop(PidFile.of_runmail()))
        except PidFileUnusable as error:
            raise CommandError(str(error)) from error
        self.stdout.write(background.start())
