"""`manage.py exportmail`: write mail into a mailbox that other programs read."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError
from django.db import Error
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from mailapp.amounts import amount
from mailapp.failures import in_one_line
from mailapp.mailboxes import NEW_MAILBOXES, NewMailbox, Unfit, as_received, new_mailbox
from mailapp.maildir import envelope_fields
from mailapp.management.command import MailCommand
from mailapp.management.exporting import Wanted
from mailapp.management.starting import check_tables, keep_no_queries
from mailapp.management.targets import find_queue
from mailapp.mime import visible
from mailapp.models import Delivery, Message

_MAILS_BETWEEN_NEWS = 1000


class Command(MailCommand):
    help = """
    Write mail into a new mailbox that other programs read: a Maildir, an mbox, MH or Babyl.
    All mail, or that of a queue, or what is searched for.

    Example: manage.py exportmail copy --queue undeliverable
             manage.py exportmail spring.mbox --search you@example.com --since 2026-03-01
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("mailbox", metavar="PATH", help="where nothing is yet")
        parser.add_argument(
            "--format",
            choices=sorted(NEW_MAILBOXES),
            help="default: mbox for a name that ends in .mbox, else maildir",
        )
        parser.add_argument("--queue", default="", metavar="NAME", help="what has been in it")
        parser.add_argument("--status", choices=sorted(Delivery.Status.values), default="")
        parser.add_argument(
            "--search",
            type=_text,
            default="",
            metavar="TEXT",
            help="in the subject, author, sender, a recipient or the Message-ID",
        )
        parser.add_argument("--since", type=_moment, metavar="DATE", help="what came then or later")
        parser.add_argument("--until", type=_moment, metavar="DATE", help="what came before that")
        parser.add_argument(
            "--envelope",
            action="store_true",
            help="write sender and recipients on top, as Return-Path and Delivered-To",
        )

    def handle(self, *args: Any, mailbox: str, **options: Any) -> None:
        check_tables()
        keep_no_queries()
        path = Path(mailbox)
        wanted = Wanted(**{key: options[key] for key in Wanted.__dataclass_fields__})
        if wanted.queue and find_queue(wanted.queue) is None:
            raise CommandError(f"There is no queue {wanted.queue}.")
        format = options["format"] or ("mbox" if path.suffix == ".mbox" else "maildir")
        try:
            self._export(path, format, wanted, options)
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}") from error
        except KeyboardInterrupt:
            self.stderr.write("Interrupted; nothing is there.")
            sys.exit(130)
        if self._left_out:
            raise CommandError(f"{amount(self._left_out, 'mail')} could not be exported.")

    def _export(self, path: Path, format: str, wanted: Wanted, options: dict[str, Any]) -> None:
        total = wanted.messages().count()
        if not total:
            raise CommandError("No mail is like that; nothing was written.")
        self._left_out = done = 0
        with new_mailbox(path, format) as target:
            for done, message in enumerate(wanted.in_pieces(), start=1):
                self._add(target, message, wanted if options["envelope"] else None)
                if options["verbosity"] > 0 and done % _MAILS_BETWEEN_NEWS == 0:
                    self.stderr.write(f"{done} of {total}")
        exported = amount(done - self._left_out, "mail")
        self.stdout.write(f"Exported {exported} to {visible(str(path))} ({format}).")

    def _add(self, target: NewMailbox, message: Message, enveloped: Wanted | None) -> None:
        try:
            raw = _read(message)
            if enveloped is not None:
                raw = _envelope(message, enveloped) + raw
            target.add(raw, message.sender, message.created_at)
        except Unfit as error:
            self._left_out += 1
            self.stderr.write(f"Message {message.pk}, {visible(str(message))}: {error}")


def _read(message: Message) -> bytes:
    try:
        return message.raw
    except Error:
        raise
    except Exception as error:  # of the storage of large mails
        raise Unfit(in_one_line(error)) from error


def _envelope(message: Message, wanted: Wanted) -> bytes:
    deliveries = wanted.deliveries().filter(message=message)
    recipients = list(deliveries.values_list("recipient", flat=True))
    return as_received(envelope_fields(message.sender, recipients))


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not UTF-8") from None
    return text


def _moment(text: str) -> datetime:
    try:
        moment = parse_datetime(text)
    except ValueError:  # such as the 30th of February
        moment = None
    if moment is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no date such as 2026-03-01")
    return moment if moment.tzinfo else timezone.make_aware(moment)
