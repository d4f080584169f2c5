"""`manage.py importmail`: take the mail of mailboxes into a queue or a Maildir."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError

from mailapp.amounts import amount
from mailapp.conf import mail_settings
from mailapp.errors import BadAddress
from mailapp.mailboxes import NotAMailbox, open_mailbox
from mailapp.management.command import MailCommand
from mailapp.management.importing import Importer, MaildirTarget, QueueTarget, Target
from mailapp.management.starting import check_tables, keep_no_queries
from mailapp.management.submission import envelope_address
from mailapp.management.targets import expect_handlers_work
from mailapp.mime import visible
from mailapp.models import INCOMING, Queue

_QUEUE = "imported"
_MAILS_BETWEEN_NEWS = 1000


class Command(MailCommand):
    help = """
    Take the mail of mailboxes (mbox, Maildir, MH, Babyl, .eml files or folders of them) into a
    queue, where it is held: nobody is answered. What was imported before is not imported again,
    so after a failure run it once more.

    Example: manage.py importmail archive.mbox Maildir
             manage.py importmail Maildir --handle
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("mailboxes", nargs="+", metavar="FILE-or-DIR")
        parser.add_argument(
            "--queue", metavar="NAME", help=f"where it is held; made if needed; default: {_QUEUE}"
        )
        parser.add_argument(
            "--handle",
            action="store_true",
            help="have the handlers take it as if it had just come in; they may answer",
        )
        parser.add_argument("--maildir", metavar="DIR", help="to this Maildir, and to no queue")
        parser.add_argument(
            "--to",
            action="append",
            default=[],
            metavar="ADDRESS",
            help="the recipient, in place of those that a mail names; may be repeated",
        )
        parser.add_argument("--dry-run", action="store_true", help="only say what there is to do")

    def handle(self, *args: Any, mailboxes: Sequence[str], **options: Any) -> None:
        self._talks = options["verbosity"] > 0
        keep_no_queries()
        try:
            importer = Importer(
                self._target(options), _addresses(options["to"]), dry_run=options["dry_run"]
            )
            ended = self._import_all([Path(each) for each in mailboxes], importer)
        except OSError as error:
            raise CommandError(f"{error}. Run it again to go on.") from error
        self._summarize(importer, dry_run=options["dry_run"])
        if not ended:
            sys.exit(130)
        if importer.broken or self._unread:
            raise CommandError("Not everything could be imported.")

    def _target(self, options: dict[str, Any]) -> Target:
        queue, handled, maildir = options["queue"], options["handle"], options["maildir"]
        if maildir is not None:
            if queue is not None or handled:
                raise CommandError("--maildir goes with neither --queue nor --handle")
            return _maildir(Path(maildir))
        check_tables()
        if handled:
            expect_handlers_work(queue or INCOMING)
        elif not options["dry_run"]:
            _make(queue or _QUEUE)
        return QueueTarget(queue or (INCOMING if handled else _QUEUE), handled=handled)

    def _import_all(self, paths: Sequence[Path], importer: Importer) -> bool:
        """Import what is there; say whether it was done to its end, and not interrupted."""
        self._unread = False
        try:
            for path in paths:
                try:
                    self._import(path, importer)
                except NotAMailbox as error:
                    if len(paths) == 1:
                        raise CommandError(visible(str(error))) from error
                    self._unread = True
                    self.stderr.write(visible(str(error)))
        except KeyboardInterrupt:
            self.stderr.write("Interrupted. Run it again to go on.")
            return False
        return True

    def _import(self, path: Path, importer: Importer) -> None:
        with open_mailbox(path) as mailbox:
            before, told, bad = importer.seen, 0, len(importer.broken)
            for _ in importer.run(mailbox.mails()):
                done = importer.seen - before
                if self._talks and done - told >= _MAILS_BETWEEN_NEWS:
                    told = done
                    self.stderr.write(f"{path}: {done} of {len(mailbox)}")
            for broken in importer.broken[bad:]:
                self.stderr.write(visible(f"{broken.name}: {broken.reason}"))

    def _summarize(self, importer: Importer, *, dry_run: bool) -> None:
        verb = "Would import" if dry_run else "Imported"
        known = f"; {amount(importer.known, 'is', 'are')} there already" if importer.known else ""
        broken = f"; {amount(len(importer.broken), 'is', 'are')} broken" if importer.broken else ""
        self.stdout.write(f"{verb} {amount(importer.imported, 'mail')}{known}{broken}.")


def _addresses(texts: Sequence[str]) -> list[str]:
    try:
        return [envelope_address(text, mail_settings().hostname) for text in texts]
    except BadAddress as error:
        raise CommandError(f"--to: {error}") from error


def _maildir(path: Path) -> Target:
    try:
        return MaildirTarget(path)
    except OSError as error:
        raise CommandError(f"--maildir {path}: {error.strerror}") from error


def _make(name: str) -> None:
    """Have a queue of that name; a new one is worked by nobody."""
    queue = Queue(name=name, purpose=Queue.Purpose.HELD, description="Mail of importmail.")
    try:
        queue.full_clean(validate_unique=False)
    except ValidationError as error:
        raise CommandError(f"--queue {name}: {' '.join(error.messages)}") from error
    Queue.objects.get_or_create(
        name=name, defaults={"purpose": queue.purpose, "description": queue.description}
    )
