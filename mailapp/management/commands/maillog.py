"""Catch mail as a private smart host does, show it or keep it, and fail on purpose."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from mailapp.conf import mail_settings
from mailapp.endpoints import Endpoint
from mailapp.errors import PortTaken
from mailapp.receiver import catcher
from mailapp.receiver.catcher import Catcher
from mailapp.receiver.faults import Fault

_PORT = 8899


class Command(BaseCommand):
    help = """
    Take all mail that comes from this machine, as the smart host of a development machine, and
    send nothing on. Each mail is a line in the log; with --queue it is kept in a Maildir,
    without it is shown how it begins. Ctrl-C ends it.

    Example: manage.py maillog
             manage.py maillog --queue run/queue --port 8899
             manage.py maillog --fail rcpt:451:10% --fail dot:slow:5
    """
    requires_system_checks = ()

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--queue", default="", metavar="DIR", help="the Maildir to keep it in")
        parser.add_argument(
            "--port",
            type=_port,
            default=_PORT,
            help=f"where to listen on 127.0.0.1; 0: any that is free. Default: {_PORT}",
        )
        parser.add_argument(
            "--fail",
            action="append",
            default=[],
            type=_fault,
            metavar="STAGE:WHAT",
            help="what to do wrong, and how often; repeat it for more. See docs/commands.md",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        queue, faults = options["queue"], options["fail"]
        # A client is to blame for none of our faults, however many they are.
        settings = replace(mail_settings(), MAX_ERRORS=sys.maxsize)
        place = str(Endpoint("127.0.0.1", options["port"]))
        self._announcement = f", kept in {queue}" if queue else ""
        try:
            caught = Catcher(queue, show=None if queue else self._say)
            catcher.serve(settings, place, caught, self._announce, faults)
        except PortTaken as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            raise CommandError(f"{queue} cannot be used as a Maildir: {error}") from error

    def _announce(self, place: str) -> None:
        self._say(f"Catching mail on {place}{self._announcement}. Ctrl-C ends it.")

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()


def _port(text: str) -> int:
    try:
        return Endpoint.parse(f"127.0.0.1:{text}").port
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port") from None


def _fault(text: str) -> Fault:
    try:
        return Fault.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
