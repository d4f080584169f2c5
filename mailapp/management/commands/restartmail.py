"""End what runs here and start it again in the background, with the code as it is now."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import CommandError

from mailapp.conf import mail_settings
from mailapp.management import background
from mailapp.management.background import Program
from mailapp.management.command import MailCommand
from mailapp.management.starting import check_places, prepare


class Command(MailCommand):
    help = """
    End what runs on this machine and start it again, detached: runmail, and what runs with
    --detach. What would keep it from starting is said before anything is ended: then the old
    one goes on.

    Example: manage.py restartmail
             manage.py restartmail runworker
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("names", nargs="*", metavar="NAME", help="restart this alone")

    def handle(self, *args: Any, **options: Any) -> None:
        prepare()
        chosen = background.chosen(options["names"])
        for pid_file in chosen:
            if not pid_file.pid() and pid_file.name != "runmail":
                raise CommandError(f"{pid_file.name} does not run here.")
            if pid_file.name == "runmail":  # others bring their port in their command
                check_places(mail_settings().places, pid_file.places)
        for pid_file in chosen:
            program = Program(pid_file.command, pid_file.name)
            self.stdout.write(background.stop(pid_file))
            self.stdout.write(program.start())
