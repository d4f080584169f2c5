"""`manage.py sendtest`: send a mail and show the whole SMTP dialogue."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from mailapp.dialogue import (
    DialogueFailed,
    Letter,
    Plan,
    Protocol,
    Stage,
    Tls,
    Transcript,
    hold,
)
from mailapp.management.examples import EpilogFormatter
from mailapp.management.numbers import positive
from mailapp.management.results import Results
from mailapp.management.sendtest import LetterWriter, read_plan

EXAMPLES = """\
examples:
  manage.py sendtest --to test.list-subscribe@localhost --from you@example.com
  manage.py sendtest --to a@localhost,b@localhost --subject Hello --body @letter.txt
  manage.py sendtest --to a@localhost --raw message.eml --quit-after rcpt
  manage.py sendtest --to a@localhost --from 'you+{n}@example.com' --count 1000 --concurrency 10

exit codes: 0 sent, 1 wrong arguments, 2 no connection, 6 connection lost, 21 banner, 22 HELO,
23 MAIL, 24 no recipient accepted, 25 DATA, 26 message refused, 27 QUIT, 28 AUTH, 29 TLS,
32 HELO after TLS
"""


class Command(BaseCommand):
    help = "Send a mail and show the whole SMTP dialogue, with how long each reply took."
    requires_system_checks = []

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(
            prog_name, subcommand, epilog=EXAMPLES, formatter_class=EpilogFormatter, **kwargs
        )
        parser.called_from_command_line = False  # argparse would exit with 2: no connection
        return parser

    def run_from_argv(self, argv: list[str]) -> None:
        try:
            super().run_from_argv(argv)
        except CommandError as error:
            self.stderr.write(str(error))
            sys.exit(error.returncode)
        except ImproperlyConfigured as error:  # MAIL is wrong
            self.stderr.write(str(error))
            sys.exit(1)
        except KeyboardInterrupt:
            sys.exit(130)

    def add_arguments(self, parser: CommandParser) -> None:
        _add_letter_options(parser.add_argument_group("the envelope and the message").add_argument)
        _add_session_options(parser.add_argument_group("the session").add_argument)
        _add_output_options(parser.add_argument_group("output and repetition").add_argument)

    def handle(self, **options: Any) -> None:
        plan = read_plan(options)
        write_letter = LetterWriter(options).write
        if options["count"] == 1:
            code = self._hold(plan, write_letter(1), options)
        else:
            code = self._hold_many(plan, write_letter, options)
        if code:
            sys.exit(code)

    def _hold(self, plan: Plan, letter: Letter, options: dict[str, Any]) -> int:
        transcript = Transcript(
            self.stdout.write, quiet=options["quiet"], hide_body=options["hide_body"]
        )
        try:
            hold(plan, letter, transcript)
        except DialogueFailed as failure:
            transcript.error(f"{failure.reason} (exit code {failure.exit})")
            return failure.exit
        transcript.note("Done")
        return 0

    def _hold_many(
        self, plan: Plan, write_letter: Callable[[int], Letter], options: dict[str, Any]
    ) -> int:
        def hold_one(number: int) -> DialogueFailed | None:
            try:
                hold(plan, write_letter(number), Transcript(str))
            except DialogueFailed as failure:
                return failure
            return None

        results, started = Results(), time.perf_counter()
        with ThreadPoolExecutor(options["concurrency"]) as pool:
            try:
                for failure in pool.map(hold_one, range(1, options["count"] + 1)):
                    results.count(failure)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        if not options["quiet"]:
            self.stdout.write(results.summary(time.perf_counter() - started))
        for line in results.reasons():
            self.stdout.write(line)
        return results.exit_code


def _add_letter_options(add: Callable[..., object]) -> None:
    add(
        "--to",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="recipient; repeat it or part several with commas",
    )
    add("--from", dest="sender", metavar="ADDRESS", help="sender; '' or '<>' is the null sender")
    add("--subject", default="Test", help="{n} is the number of the mail, here and in addresses")
    add("--body", metavar="TEXT", help="text, @FILE, or - for standard input")
    add(
        "--attach",
        action="append",
        default=[],
        metavar="FILE",
        help="file to attach; may be repeated",
    )
    add(
        "--header",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="header to add or to put in the place of a generated one; may be repeated",
    )
    add("--raw", metavar="FILE", help="send these bytes as the message")


def _add_session_options(add: Callable[..., object]) -> None:
    add(
        "--server",
        metavar="HOST:PORT",
        help="or the path of a Unix socket; default: our receiver",
    )
    add("--protocol", choices=[*map(str, Protocol)], default="esmtp", help="default: esmtp")
    add(
        "--helo",
        metavar="NAME",
        default=socket.gethostname(),
        help="default: this machine's name",
    )
    add(
        "--starttls",
        dest="tls",
        action="store_const",
        const=Tls.STARTTLS,
        default=Tls.NONE,
        help="encrypt after the first EHLO",
    )
    add(
        "--tls",
        dest="tls",
        action="store_const",
        const=Tls.IMPLICIT,
        help="encrypt from the first octet",
    )
    add(
        "--tls-verify",
        dest="verify",
        action="store_true",
        default=None,
        help="check the certificate; default, unless the server is this machine",
    )
    add("--no-verify", dest="verify", action="store_false", help="take any certificate")
    add(
        "--auth",
        metavar="USER",
        help="log in; asks for the password",
    )
    add("--password-file", metavar="FILE", help="or -; the password is its first line")
    add(
        "--auth-mechanism",
        choices=["PLAIN", "LOGIN"],
        type=str.upper,
        default="",
        help="default: what the server offers",
    )
    add(
        "--quit-after",
        choices=[*map(str, Stage)],
        type=str.lower,
        default="dot",
        metavar="STAGE",
        help=f"end the session early: {', '.join(Stage)}",
    )
    add(
        "--timeout",
        type=positive(float),
        default=30.0,
        metavar="SECONDS",
        help="for each reply; default: 30",
    )


def _add_output_options(add: Callable[..., object]) -> None:
    add("--quiet", action="store_true", help="show only what went wrong")
    add("--hide-body", action="store_true", help="show only the header of the message")
    add(
        "--count",
        type=positive(int),
        default=1,
        metavar="N",
        help="send N mails, a session each, and show a summary",
    )
    add(
        "--concurrency",
        type=positive(int),
        default=1,
        metavar="M",
        help="so many of them at once",
    )
