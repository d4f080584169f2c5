"""End the mail server and start it again in the background, with the code as it is now."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

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
        self.stdout.write(background.stop(PidFile.of_runmail()))
        self.stdout.write(background.start())
