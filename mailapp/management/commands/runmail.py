"""Run receiver, workers, relay and, in development, the mail catcher and the admin."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS, OperationalError, connections
from django.db.migrations.executor import MigrationExecutor

from mailapp import devserver, receiver, registry, relay, worker
from mailapp.conf import mail_settings
from mailapp.errors import DidNotStart, MailError
from mailapp.mime import one_line
from mailapp.receiver import catcher
from mailapp.supervisor import Supervisor, supervised

_PARTS: dict[str, Callable[[Callable[[str], None]], None]] = {
    "catcher": catcher.run,
    "relay": relay.run,
    "worker": worker.run,
    "receiver": receiver.run,
    "web": devserver.run,
}


class Command(BaseCommand):
    help = """
    Run the whole mail server in the foreground: receiver, workers, relay, and with
    MAIL["CATCHER"] and MAIL["WEB"] the mail catcher and the admin. Ctrl-C or SIGTERM ends
    all of it with no message half done.

    Example: manage.py runmail
             manage.py runmail --only receiver
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--only", choices=sorted(_PARTS), help="run this part alone")
        parser.add_argument("--supervisor-fd", type=int, help=argparse.SUPPRESS)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self._run(options["only"], options["supervisor_fd"])
        except DidNotStart:
            sys.exit(1)  # the part has said why
        except MailError as error:
            raise CommandError(str(error)) from error

    def _run(self, part: str | None, supervisor_fd: int | None) -> None:
        if supervisor_fd is None:
            _check()
        if part is None:
            Supervisor(_wanted(), self._announce).run()
        else:
            with supervised(supervisor_fd) as on_ready:
                _PARTS[part](on_ready)

    def _announce(self, ready: Mapping[str, str]) -> None:
        settings, router = mail_settings(), registry.current_router()
        lines = [
            "",
            f"Receiver  {ready['receiver']}, for mail to {', '.join(settings.HOSTS)}",
            f"Relay     sends to {settings.RELAY}",
        ]
        if catches := ready.get("catcher"):
            lines.append(f"Catcher   {catches}, keeps mail in {settings.CATCHER_QUEUE}")
        if web := ready.get("web"):
            lines.append(f"Admin     http://{web}/admin/")
        lines.append("Handlers  that are on, and their routes:")
        for handler in router.handlers:
            lines.append(f"  {handler.name}")
            lines += [
                f"    {state.name:<14} {route.pattern}"
                for state in handler.states.values()
                for route in state.routes
            ]
        for handler in router.handlers:
            if handler.example:
                lines += [
                    "Next, in a second terminal:",
                    f"  {sys.executable} manage.py sendtest --to {handler.example}"
                    " --from you@example.com",
                ]
                break
        lines.append("Ctrl-C ends everything.\n")
        self.stdout.write("\n".join(lines))
        self.stdout.flush()


def _check() -> None:
    """Say in one line what would keep every part from starting."""
    try:
        executor = MigrationExecutor(connections[DEFAULT_DB_ALIAS])
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            raise CommandError("The database is not up to date: run manage.py migrate first.")
        registry.sync()
        registry.current_router()  # raises BadRoute
    except OperationalError as error:
        raise CommandError(f"The database does not answer: {one_line(str(error))}") from error


def _wanted() -> list[str]:
    settings = mail_settings()
    return [
        *(["catcher"] if settings.CATCHER else []),
        "relay",
        *(["worker"] * settings.WORKERS),
        *(["receiver"] * settings.RECEIVER_PROCESSES),
        *(["web"] if settings.WEB else []),
    ]
