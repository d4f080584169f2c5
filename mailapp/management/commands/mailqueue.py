"""Look into a queue or a Maildir, and take out or set free what is there."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError

from mailapp import mime
from mailapp.amounts import amount
from mailapp.logs import escaped
from mailapp.management.command import MailCommand
from mailapp.management.mailqueue import Entry, Place, place_of
from mailapp.management.targets import queue_or_maildir
from mailapp.mime import visible

_ACTIONS = {
    "list": "show each mail in a line, the oldest first",
    "count": "print how many mails there are",
    "keys": "print the key of each mail",
    "show": "show a mail to be read",
    "get": "write a mail to standard output, byte for byte",
    "pop": "write the oldest mail to standard output, and then remove it",
    "remove": "give mails up; those of a queue are kept as failed",
    "clear": "remove all mails, after a question",
    "retry": "try mails now that are held, failed or deferred",
    "hold": "take mails out of the work that are queued or deferred",
    "release": "queue held mails again",
}
_OF_ONE = ("show", "get")
_OF_SOME = ("retry", "hold", "release")
_WITHOUT_JSON = ("get", "pop")


class Command(MailCommand):
    help = """
    Look into a queue, by its name, or into a Maildir, by its path; take mail out of it, hold it
    or set it free. A mail that a worker has in hand is left to the worker.

    Example: manage.py mailqueue list undeliverable
             manage.py mailqueue get undeliverable 17
             manage.py mailqueue retry undeliverable --all
             manage.py mailqueue pop run/queue
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
        for action, what in _ACTIONS.items():
            one = actions.add_parser(action, help=what, description=what)
            one.add_argument("target", metavar="QUEUE-or-MAILDIR")
            if action in _OF_ONE:
                one.add_argument("key", metavar="KEY")
            if action == "remove":
                one.add_argument("keys", nargs="+", metavar="KEY")
            if action in _OF_SOME:
                one.add_argument("keys", nargs="*", metavar="KEY")
                one.add_argument("--all", action="store_true", help="all that this fits")
            if action == "clear":
                one.add_argument(
                    "--yes", "--no-input", "--noinput", action="store_true", help="do not ask"
                )
            if action not in _WITHOUT_JSON:
                one.add_argument("--json", action="store_true", help="for programs")

    def handle(self, *args: Any, action: str, target: str, **options: Any) -> None:
        try:
            place = place_of(queue_or_maildir(target))
            getattr(self, f"_{action}")(place, target=target, **options)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise CommandError(str(error)) from error

    def _list(self, place: Place, *, json: bool, **options: Any) -> None:
        if json:
            self._write_array(map(_as_json, place.entries()))
            return
        for line in _lines(place.entries()):
            self.stdout.write(line)

    def _keys(self, place: Place, *, json: bool, **options: Any) -> None:
        if json:
            self._write_array(map(_dumped, place.keys()))
            return
        keys = place.keys()
        for key in keys:  # as the shell gives it back to us, be it text or not
            sys.stdout.buffer.write(os.fsencode(key) + b"\n")
        sys.stdout.buffer.flush()

    def _write_array(self, elements: Iterable[str]) -> None:
        """Write a JSON array as its elements come, however many there are."""
        begin = "["
        for element in elements:
            self.stdout.write(f"{begin}{element}", ending="")
            begin = ",\n "
        self.stdout.write("[]" if begin == "[" else "]")

    def _count(self, place: Place, *, target: str, json: bool, **options: Any) -> None:
        counts = place.count()
        total = sum(counts.values())
        self.stdout.write(_dumped({"total": total, **counts}) if json else str(total))

    def _show(self, place: Place, *, key: str, json: bool, **options: Any) -> None:
        entry, raw = place.entry(key), b"".join(place.content(key))
        if json:
            self.stdout.write(_dumped({**asdict(entry), **_letter(raw)}))
        else:
            self.stdout.write("\n".join(_page(entry, raw)))

    def _get(self, place: Place, *, key: str, **options: Any) -> None:
        for piece in place.content(key):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()

    def _pop(self, place: Place, *, target: str, **options: Any) -> None:
        if not place.pop(_write_at_once):
            raise CommandError(f"There is nothing to take in {target}.")

    def _remove(self, place: Place, *, keys: list[str], json: bool, **options: Any) -> None:
        self._say("removed", place.act("discard", keys), json=json)

    def _clear(self, place: Place, *, target: str, yes: bool, json: bool, **options: Any) -> None:
        counts = place.count()
        left = counts.pop("claimed", 0)
        count = sum(counts.values())
        question = f"Remove all of {target} ({amount(count, 'mail')})? [y/N] "
        if count and not yes and not _is_wanted(question):
            raise CommandError("Nothing was removed.")
        self._say("removed", place.act("discard", None), json=json)
        if left:
            self.stderr.write(
                f"{amount(left, 'mail stays', 'mails stay')}, in the hands of a worker."
            )

    def _retry(self, place: Place, **options: Any) -> None:
        self._act(place, "retry", "retried", **options)

    def _hold(self, place: Place, **options: Any) -> None:
        self._act(place, "hold", "held", **options)

    def _release(self, place: Place, **options: Any) -> None:
        self._act(place, "release", "released", **options)

    def _act(
        self, place: Place, verb: str, past: str, *, keys: list[str], json: bool, **options: Any
    ) -> None:
        if bool(keys) == options["all"]:
            raise CommandError(f"Say what to {verb}: KEYs, or --all.")
        self._say(past, place.act(verb, keys or None), json=json)

    def _say(self, done: str, count: int, *, json: bool) -> None:
        self.stdout.write(_dumped({done: count}) if json else f"{count} {done}")


def _write_at_once(piece: bytes) -> None:
    sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def _is_wanted(question: str) -> bool:
    sys.stderr.write(question)
    sys.stderr.flush()
    if not (answer := sys.stdin.readline()):
        raise CommandError("Nothing was removed: --yes does so where nobody is asked.")
    return answer.strip().lower() in {"y", "yes"}


def _lines(entries: Iterable[Entry]) -> Iterator[str]:
    for entry in entries:
        key = escaped(entry.key)  # of a file, which may be named anyhow
        line = f"{key}  {entry.status}  {entry.arrived}  {_sender(entry)} -> "
        yield visible(f"{line}{', '.join(entry.recipients) or '?'}  {entry.subject}")
        if entry.reply:
            yield visible(f"    {mime.one_line(entry.reply)}")


def _sender(entry: Entry) -> str:
    return "?" if entry.sender is None else entry.sender or "<>"


def _page(entry: Entry, raw: bytes) -> Iterator[str]:
    """The delivery, the head and the text of a mail, with nothing in it that hides or reorders."""
    facts = {"Key": escaped(entry.key), "Status": entry.status, "Arrived": entry.arrived}
    facts |= {"Size": amount(entry.size, "octet"), "Sender": _sender(entry)}
    facts |= {"Recipient": ", ".join(entry.recipients), "Last reply": entry.reply}
    yield from (f"{name + ':':<12}{visible(value)}" for name, value in facts.items() if value)
    letter = _letter(raw)
    yield ""
    yield from (visible(f"{name}: {value}") for name, value in letter["headers"])
    yield from ("", visible(letter["text"]).rstrip())
    yield from (visible(f"[attached: {name}]") for name in letter["attachments"])


def _letter(raw: bytes) -> dict[str, Any]:
    parsed = mime.parse(raw)
    return {
        "headers": mime.headers(parsed),
        "text": mime.body_of(parsed),
        "attachments": [each.filename for each in mime.attachments(parsed)],
    }


def _dumped(value: Any) -> str:
    return json.dumps(value)


def _as_json(entry: Entry) -> str:
    return _dumped(asdict(entry))
