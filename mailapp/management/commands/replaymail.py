"""`manage.py replaymail`: send the mail of mailboxes to a server, at a rate and so many."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from mailapp.conf import mail_settings
from mailapp.dialogue import Plan
from mailapp.errors import BadAddress
from mailapp.mailboxes import NotAMailbox
from mailapp.management.command import MailCommand
from mailapp.management.numbers import positive
from mailapp.management.replay import Letters, Replay
from mailapp.management.sendtest import read_server
from mailapp.management.submission import envelope_address
from mailapp.mime import visible

_MAILS_BETWEEN_NEWS = 1000


class Command(MailCommand):
    help = """
    Send each mail of mailboxes (mbox, Maildir, MH, Babyl, .eml files or folders of them) to a
    server, by default our receiver, and show a summary.

    Example: manage.py replaymail run/queue --to test.list@localhost
             manage.py replaymail archive.mbox --rate 50 --count 10000 --concurrency 10
    """
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("mailboxes", nargs="+", metavar="FILE-or-DIR")
        parser.add_argument(
            "--server",
            metavar="HOST:PORT",
            help="or the path of a Unix socket; default: our receiver",
        )
        parser.add_argument(
            "--from",
            dest="sender",
            metavar="ADDRESS",
            help="sender of all; '' or '<>' is the null sender; default: that of each mail",
        )
        parser.add_argument(
            "--to",
            action="append",
            default=[],
            metavar="ADDRESS",
            help="recipient of all; may be repeated; default: those of each mail",
        )
        parser.add_argument(
            "--rate", type=positive(float), metavar="R", help="so many a second, at most"
        )
        parser.add_argument(
            "--count",
            type=positive(int),
            metavar="N",
            help="so many in all, from the beginning again if need be; default: each once",
        )
        parser.add_argument(
            "--concurrency",
            type=positive(int),
            default=1,
            metavar="M",
            help="over so many sessions at once",
        )
        parser.add_argument(
            "--timeout",
            type=positive(float),
            default=30.0,
            metavar="SECONDS",
            help="for each reply; default: 30",
        )

    def handle(self, *args: Any, mailboxes: Sequence[str], **options: Any) -> None:
        letters = Letters(
            [Path(each) for each in mailboxes],
            None if options["sender"] is None else _sender(options["sender"]),
            [_address("--to", each) for each in options["to"]],
        )
        count = options["count"]
        plan = Plan(
            server=read_server(options["server"] or mail_settings().RECEIVER),
            helo=mail_settings().hostname,
            timeout=options["timeout"],
        )
        replay = Replay(
            plan,
            islice(letters.again_and_again(), count) if count else letters.once(),
            options["rate"],
        )
        interrupted = self._run(replay, options)
        for broken in letters.broken:
            self.stderr.write(visible(f"{broken.name}: {broken.reason}"))
        code = 130 if interrupted else replay.results.exit_code or int(bool(letters.broken))
        if code:
            sys.exit(code)

    def _run(self, replay: Replay, options: dict[str, Any]) -> bool:
        """Send, and show the summary; say whether it was interrupted."""

        def tell(tried: int) -> None:
            if options["verbosity"] > 0 and tried % _MAILS_BETWEEN_NEWS == 0:
                self.stderr.write(f"{tried} tried")

        started, interrupted = time.perf_counter(), False
        try:
            replay.run(options["concurrency"], tell)
        except NotAMailbox as error:
            raise CommandError(visible(str(error))) from error
        except KeyboardInterrupt:
            interrupted = True
        self.stdout.write(replay.results.summary(time.perf_counter() - started))
        for line in replay.results.reasons():
            self.stdout.write(line)
        if replay.ended_early:
            self.stderr.write("Ended early: there is no session to be had.")
        return interrupted


def _sender(text: str) -> str:
    return "" if text in {"", "<>"} else _address("--from", text)


def _address(option: str, text: str) -> str:
    try:
        return envelope_address(text, mail_settings().hostname)
    except BadAddress as error:
        raise CommandError(f"{option}: {error}") from error
