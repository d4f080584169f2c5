"""Catch mail as a private smart host does, show it or keep it, and fail on purpose."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from mailapp.conf import mail_settings
from mailapp.endpoints import Endpoint
from mailapp.management.background import Program, add_options, named_for
from mailapp.management.command import MailCommand
from mailapp.mime import visible
from mailapp.receiver import catcher
from mailapp.receiver.catcher import Catcher
from mailapp.receiver.faults import Fault

_PORT = 8899


class Command(MailCommand):
    help = """
    Take all mail that comes from this machine, as the smart host of a development machine, and
    send nothing on. Each mail is a line in the log; with --queue it is kept in a Maildir,
    without it is shown how it begins. Ctrl-C ends it.

    Example: manage.py maillog
             manage.py maillog --queue run/queue --port 8899 --detach
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
            type=_checked_fault,
            metavar="STAGE:WHAT",
            help="what to do wrong, and how often; repeat it for more. See docs/commands.md",
        )
        add_options(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        program = _program(options)
        if options["detach"]:
            self.stdout.write(program.start())
            return
        with program.registered():
            self._catch(program, options)

    def _catch(self, program: Program, options: dict[str, Any]) -> None:
        queue = options["queue"]
        # A client is to blame for none of our faults, however many they are.
        settings = replace(mail_settings(), MAX_ERRORS=sys.maxsize)
        place = str(Endpoint("127.0.0.1", options["port"]))
        kept = f", kept in {visible(queue)}" if queue else ""

        def announce(opened: str) -> None:
            program.announce(f"Catching mail on {opened}{kept}.", self.stdout)

        try:
            caught = Catcher(queue, show=None if queue else self._show)
            faults = [Fault.parse(text) for text in options["fail"]]
            catcher.serve(settings, place, caught, announce, faults)
        except OSError as error:
            raise CommandError(f"{queue} cannot be used as a Maildir: {error.strerror}") from error

    def _show(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()


def _program(options: dict[str, Any]) -> Program:
    port, queue = options["port"], options["queue"]
    command = ["maillog", f"--port={port}", *(f"--fail={fault}" for fault in options["fail"])]
    if queue:
        command.append(f"--queue={Path(queue).absolute()}")
    return Program(command, named_for("maillog", str(port)), options["ready_fd"])


def _port(text: str) -> int:
    try:
        return Endpoint.parse(f"127.0.0.1:{text}").port
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port") from None


def _checked_fault(text: str) -> str:
    try:
        Fault.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text
