"""Show the routes, or what would take a mail, and why."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError
from django.db import transaction

from mailapp.conf import mail_settings
from mailapp.management import routes
from mailapp.management.command import MailCommand
from mailapp.management.routes import Candidate, Explanation, Listed
from mailapp.management.starting import prepare
from mailapp.management.tables import table


class Command(MailCommand):
    help = """
    Show all routes in their order. With an address, show what would become of a mail to it: what
    the receiver says, which functions run, and why the others do not. Nothing is run or stored.
    Exit code 1: the mail would be refused, or nobody would take it.

    Example: manage.py mailroutes
             manage.py mailroutes guestbook@localhost --from you@example.com
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("address", nargs="?", metavar="ADDRESS", help="where the mail goes")
        parser.add_argument(
            "--from",
            dest="sender",
            metavar="PERSON",
            help="who writes it; '' or '<>' is the null sender; default: somebody new",
        )
        parser.add_argument("--json", action="store_true", help="for programs")

    def handle(
        self, *args: Any, address: str | None, sender: str | None, json: bool, **options: Any
    ) -> None:
        if address is None and sender is not None:
            raise CommandError("Say where the mail goes, too: mailroutes ADDRESS --from PERSON")
        with transaction.atomic():
            prepare()  # as if new handlers had their rows already
            listed = list(routes.all_routes())
            explained = None if address is None else routes.explain(address, _envelope(sender))
            transaction.set_rollback(True)
        if explained is None:
            self._show_all(listed, as_json=json)
        else:
            self._show(explained, as_json=json)

    def _show_all(self, listed: Sequence[Listed], *, as_json: bool) -> None:
        if as_json:
            self.stdout.write(_json([asdict(each) for each in listed]))
            return
        self.stdout.write(f"(host) is {' or '.join(mail_settings().HOSTS)}\n\n")
        self.stdout.write("\n".join(table(_OF_ROUTES, map(_row, listed))))

    def _show(self, explained: Explanation, *, as_json: bool) -> None:
        self.stdout.write(_json(asdict(explained)) if as_json else _text(explained))
        if not explained.taken:
            raise SystemExit(1)


def _envelope(sender: str | None) -> str:
    if sender is None:
        return routes.STRANGER
    return "" if sender == "<>" else sender


_OF_ROUTES = ("ORDER", "HANDLER", "FUNCTION", "ROUTE", "")
_OF_CANDIDATES = ("ORDER", "HANDLER", "FUNCTION", "RUNS", "")


def _row(listed: Listed) -> Sequence[str]:
    remarks = [*([] if listed.enabled else ["off"]), *listed.marks, *_assigned(listed.captures)]
    return (
        str(listed.order),
        listed.handler,
        listed.function,
        listed.route,
        " ".join(remarks),
    )


def _text(explained: Explanation) -> str:
    sender = explained.sender or "<>"
    lines = [f"{explained.recipient} from {sender}", "", f"Receiver: {explained.reply}"]
    if explained.candidates:
        lines += ["", *table(_OF_CANDIDATES, map(_tried, explained.candidates))]
    return "\n".join([*lines, "", explained.outcome])


def _tried(each: Candidate) -> Sequence[str]:
    captured = " ".join(_assigned(each.captures))
    return (str(each.order), each.handler, each.function, each.why, captured)


def _assigned(values: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in values.items()]


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
