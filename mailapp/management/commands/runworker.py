"""Run workers without the rest of the mail server: here, and on as many machines as there are."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError, connection

from mailapp import worker
from mailapp.conf import mail_settings
from mailapp.errors import DidNotStart, MailError
from mailapp.management.starting import check, database_away, keep_no_queries
from mailapp.models import INCOMING, Queue
from mailapp.supervisor import Supervisor, supervised


class Command(BaseCommand):
    help = """
    Work a queue with handlers, in the foreground, without a receiver and a relay. Ctrl-C or
    SIGTERM ends the workers with no message half done.

    Example: manage.py runworker --processes 4
             manage.py runworker --queue reports
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--queue", default=INCOMING, metavar="NAME", help="what to work")
        parser.add_argument(
            "--processes", type=int, metavar="N", help='how many workers; default: MAIL["WORKERS"]'
        )
        parser.add_argument("--supervisor-fd", type=int, help=argparse.SUPPRESS)

    def handle(self, *args: Any, **options: Any) -> None:
        queue, supervisor_fd = options["queue"], options["supervisor_fd"]
        try:
            if supervisor_fd is None:
                self._supervise(queue, options["processes"] or mail_settings().WORKERS)
            else:
                keep_no_queries()
                with supervised(supervisor_fd) as on_ready:
                    worker.run(on_ready, queue)
        except DidNotStart:
            sys.exit(1)  # the worker has said why
        except MailError as error:
            raise CommandError(str(error)) from error
        except OperationalError as error:
            raise database_away(error) from error

    def _supervise(self, queue: str, processes: int) -> None:
        check()
        if not Queue.objects.filter(name=queue, purpose=Queue.Purpose.HANDLERS).exists():
            raise CommandError(f"There is no queue {queue} that handlers work.")
        if processes > 1 and connection.vendor == "sqlite":
            raise CommandError("SQLite has one writer at a time: use one process, or PostgreSQL.")
        Supervisor(["runworker", "--queue"], [queue] * processes, self._announce).run()

    def _announce(self, ready: Mapping[str, str]) -> None:
        for queue in ready:
            self.stdout.write(f"Working {queue}. Ctrl-C ends it.")
        self.stdout.flush()
