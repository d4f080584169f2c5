"""Run workers without the rest of the mail server: here, and on as many machines as there are."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandError
from django.db import connection

from mailapp import containment, worker
from mailapp.children import supervised
from mailapp.conf import mail_settings
from mailapp.errors import DidNotStart
from mailapp.management import background
from mailapp.management.background import Program, named_for
from mailapp.management.command import MailCommand
from mailapp.management.numbers import positive
from mailapp.management.starting import keep_no_queries, prepare
from mailapp.management.targets import expect_handlers_work
from mailapp.models import INCOMING
from mailapp.supervisor import Supervisor


class Command(MailCommand):
    help = """
    Work a queue with handlers, without a receiver and a relay. Ctrl-C or SIGTERM ends the workers
    with no message half done; with --detach they are in the background, and stopmail ends them.

    Example: manage.py runworker --processes 4
             manage.py runworker --queue reports --detach
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--queue", default=INCOMING, metavar="NAME", help="what to work")
        parser.add_argument(
            "--processes",
            type=positive(int),
            metavar="N",
            help='how many workers; default: MAIL["WORKERS"]',
        )
        background.add_options(parser)
        parser.add_argument("--supervisor-fd", type=int, help=argparse.SUPPRESS)
        parser.add_argument("--in-hand-fd", type=int, help=argparse.SUPPRESS)

    def handle(self, *args: Any, **options: Any) -> None:
        queue, supervisor_fd = options["queue"], options["supervisor_fd"]
        try:
            if supervisor_fd is None:
                self._supervise(queue, options)
            else:
                keep_no_queries()
                if options["in_hand_fd"] is not None:
                    containment.show_to_supervisor(options["in_hand_fd"])
                with supervised(supervisor_fd) as on_ready:
                    worker.run(on_ready, queue)
        except DidNotStart:
            sys.exit(1)  # the worker has said why

    def _supervise(self, queue: str, options: dict[str, Any]) -> None:
        prepare()
        processes = options["processes"] or mail_settings().WORKERS
        expect_handlers_work(queue)
        if processes > 1 and connection.vendor == "sqlite":
            raise CommandError("SQLite has one writer at a time: use one process, or PostgreSQL.")
        program = _program(queue, options)
        if options["detach"]:
            self.stdout.write(program.start())
            return

        def announce(ready: Mapping[str, str]) -> None:
            program.announce(f"Working {queue}.", self.stdout)

        command, parts = ["runworker", "--queue"], [queue] * processes
        with program.registered() as keep:
            Supervisor(command, parts, announce, worker=queue, keep=keep).run()


def _program(queue: str, options: dict[str, Any]) -> Program:
    command = ["runworker", f"--queue={queue}"]
    if options["processes"]:
        command.append(f"--processes={options['processes']}")
    name = "runworker" if queue == INCOMING else named_for("runworker", queue)
    return Program(command, name, options["ready_fd"])
