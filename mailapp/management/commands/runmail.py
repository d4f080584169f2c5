"""Run receiver, workers, relay and, in development, the mail catcher and the admin."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any

from mailapp import autoreload, containment
from mailapp.children import supervised
from mailapp.conf import mail_settings
from mailapp.errors import DidNotStart
from mailapp.management import background
from mailapp.management.background import Program
from mailapp.management.banner import banner
from mailapp.management.command import MailCommand
from mailapp.management.starting import keep_no_queries, prepare
from mailapp.pidfile import PidFile
from mailapp.supervisor import Supervisor

#: The module of each part, which only the process that runs it imports, so that all start quickly.
_PARTS = {
    "catcher": "mailapp.receiver.catcher",
    "relay": "mailapp.relay",
    "worker": "mailapp.worker",
    "sweeper": "mailapp.engines.sweeper",
    "receiver": "mailapp.receiver.server",
    "web": "mailapp.devserver",
}
_STORER = "mailapp.receiver.storer"


class Command(MailCommand):
    help = """
    Run the whole mail server: receiver, workers, relay, and with MAIL["CATCHER"] and
    MAIL["WEB"] the mail catcher and the admin. Ctrl-C or SIGTERM ends all of it with no
    message half done; with --detach it is in the background, and stopmail ends it. With
    another MAIL["ENGINE"] than "local" the handlers are called by its workers, which run
    elsewhere.

    Example: manage.py runmail
             manage.py runmail --detach
             manage.py runmail --only receiver
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        how = parser.add_mutually_exclusive_group()
        how.add_argument("--only", choices=sorted(_PARTS), help="run this part alone")
        background.add_options(parser, how)
        parser.add_argument("--supervisor-fd", type=int, help=argparse.SUPPRESS)
        parser.add_argument("--in-hand-fd", type=int, help=argparse.SUPPRESS)
        parser.add_argument("--storer-fd", type=int, help=argparse.SUPPRESS)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["storer_fd"] is not None:
                keep_no_queries()
                import_module(_STORER).run(options["storer_fd"])
            elif options["detach"]:
                self.stdout.write(Program(["runmail"], "runmail").start())
            elif options["only"]:
                self._run_part(options["only"], options["supervisor_fd"], options["in_hand_fd"])
            else:
                self._run_all(options["ready_fd"])
        except DidNotStart:
            sys.exit(1)  # the part has said why

    def _run_part(self, part: str, supervisor_fd: int | None, in_hand_fd: int | None) -> None:
        if supervisor_fd is None:
            prepare()
        if in_hand_fd is not None:
            containment.show_to_supervisor(in_hand_fd)
        if part != "web":
            keep_no_queries()
        module = import_module(_PARTS[part])
        with supervised(supervisor_fd) as on_ready:
            module.run(on_ready)

    def _run_all(self, ready_fd: int | None) -> None:
        began = time.time()
        announce = self._announce if ready_fd is None else partial(_tell, ready_fd)
        held = PidFile.of_runmail().held(places=mail_settings().places)
        with held as lock, contextlib.ExitStack() as until_the_end:
            prepare()

            def on_ready(ready: Mapping[str, str]) -> None:
                announce(ready)
                if autoreload.is_wanted():
                    until_the_end.enter_context(autoreload.watching(supervisor.renew, since=began))

            command = ["runmail", "--only"]
            supervisor = Supervisor(command, _wanted(), on_ready, worker="worker", keep=[lock])
            supervisor.run()

    def _announce(self, ready: Mapping[str, str]) -> None:
        self.stdout.write("\n".join(["", *banner(ready, "Ctrl-C ends everything."), ""]))
        self.stdout.flush()


def _tell(fd: int, ready: Mapping[str, str]) -> None:
    background.tell(fd, "\n".join(banner(ready, background.ADVICE)))


def _wanted() -> list[str]:
    conf = mail_settings()
    return [
        *(["catcher"] if conf.CATCHER else []),
        "relay",
        *(["worker"] * conf.WORKERS if conf.ENGINE == "local" else ["sweeper"]),
        *(["receiver"] * conf.RECEIVER_PROCESSES),
        *(["web"] if conf.WEB else []),
    ]
