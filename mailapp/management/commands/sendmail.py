"""`manage.py sendmail`: send a message from standard input, as every sendmail does."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from mailapp.management import sendmail
from mailapp.management.examples import EpilogFormatter

EPILOG = """\
flags:
  -t           the recipients are also those of To, Cc and Bcc; Bcc is removed
  -i, -oi      a lone dot does not end the message
  -f ADDRESS   the sender; '<>' is the null sender. Default: who you are on this machine
  -F NAME      your name, for a message without From
  -N WHEN      notices of delivery: never, or some of success,failure,delay
  -R WHAT      what a notice returns: full or hdrs
  -v           show the dialogue
  -oeq, -e q   say nothing, only exit with a code
  -bs          speak SMTP on standard input and output
  --host NAME  where to send; default: our receiver
  --port PORT  default: that of our receiver, or with --host 25
Other flags of sendmail are taken and change nothing. "--" ends the flags.

examples:
  manage.py sendmail you@example.com < letter.txt
  manage.py sendmail -t -i < letter.txt
  manage.py sendmail -i -f you@example.com -- test.list-subscribe@localhost

exit codes (sysexits.h): 0 sent to all, 64 wrong arguments, 65 wrong message, address or size,
67 no such recipient, 68 no such host, 69 refused for good, 70 internal error, 74 the message
cannot be read, 75 try again later, 77 not allowed, 78 wrong settings; other than 0: sent to nobody
"""


class Command(BaseCommand):
    help = "Send a message from standard input, as every sendmail does: for mutt, cron and pipes."
    requires_system_checks = []
    suppressed_base_arguments = {
        *("--version", "--verbosity", "--settings", "--pythonpath"),
        *("--traceback", "--no-color", "--force-color"),
    }

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(
            prog_name,
            subcommand,
            usage=f"{prog_name} {subcommand} [flags] [--] [recipient ...]",
            epilog=EPILOG,
            formatter_class=EpilogFormatter,
            add_help=False,
            **kwargs,
        )

    def run_from_argv(self, argv: list[str]) -> None:
        if "--help" in argv[2:]:
            self.print_help(*argv[:2])
        else:
            sys.exit(sendmail.main(argv[2:]))

    def handle(self, *args: Any, **options: Any) -> None:
        """Have no options for `call_command`: what runs is `mailapp.management.sendmail.main`."""
