"""Work off a Maildir that another mail server fills, or a queue, by the handlers."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from mailapp import containment, registry, worker
from mailapp.addresses import whole
from mailapp.children import supervised
from mailapp.errors import BadAddress, DidNotStart
from mailapp.lifecycle import living, release_dead
from mailapp.maildir import Maildir
from mailapp.management import background
from mailapp.management.background import Program
from mailapp.management.command import MailCommand
from mailapp.management.starting import keep_no_queries, prepare
from mailapp.management.targets import is_name, queue_or_maildir
from mailapp.mime import visible
from mailapp.models import INCOMING, Handler, Process, Queue
from mailapp.pickup import Pickup, watching
from mailapp.supervisor import Supervisor


class Command(MailCommand):
    help = """
    Work off a Maildir that another mail server fills, or a queue, by the handlers. A mail
    leaves the Maildir when it is stored; what cannot be taken goes to its subfolder .errors.
    Ends when nothing is left that is due, or with --watch at Ctrl-C or SIGTERM.

    Example: manage.py deq run/queue
             manage.py deq /var/mail/posts --watch --to posts@example.com
             manage.py deq /var/mail/posts --watch --detach
             manage.py deq index
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "target", metavar="QUEUE-or-MAILDIR", help="a queue's name, or the path of a Maildir"
        )
        how = parser.add_mutually_exclusive_group()
        how.add_argument("--once", action="store_true", help="end with the last mail; the default")
        how.add_argument("--watch", action="store_true", help="go on with what comes")
        parser.add_argument(
            "--to",
            action="append",
            default=[],
            metavar="ADDRESS",
            help="the recipient of all mail in the Maildir; default: whom it was delivered to",
        )
        parser.add_argument(
            "--handlers",
            action="append",
            default=[],
            metavar="MODULE",
            help="only these handler modules take the mail; repeat it, or part them with commas",
        )
        background.add_options(parser)
        parser.add_argument("--supervisor-fd", type=int, help=argparse.SUPPRESS)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["supervisor_fd"] is None:
                prepare()
            modules = _modules(options["handlers"])
            job = job_for(options["target"], modules, _addresses(options["to"]))
            if options["detach"] and not options["watch"]:
                raise CommandError("--detach goes with --watch.")
            if options["watch"] and options["supervisor_fd"] is None:
                self._supervise(modules, options)
                return
            keep_no_queries()
            containment.contain()
            with registry.limited_to(modules):
                if options["watch"]:
                    _watch(job, options["supervisor_fd"])
                else:
                    self.stdout.write(work_off(job))
        except DidNotStart:
            sys.exit(1)  # it has said why
        except OSError as error:
            raise CommandError(str(error)) from error

    def _supervise(self, modules: Sequence[str], options: dict[str, Any]) -> None:
        command = ["deq", "--watch", *_repeated("--to", options["to"])]
        command += _repeated("--handlers", modules)
        target = _from_everywhere(options["target"])
        name = background.named_for("deq", target, *modules)
        program = Program([*command, target], name, options["ready_fd"])
        if options["detach"]:
            self.stdout.write(program.start())
            return

        def announce(ready: Mapping[str, str]) -> None:
            program.announce(f"Working off {visible(options['target'])}.", self.stdout)

        with program.registered() as keep:
            Supervisor(command, [target], announce, keep=keep).run()


@dataclass(frozen=True)
class Job:
    """What is to be done: to work a queue, into which mail of a Maildir may be taken."""

    queue: str
    pickup: Pickup | None = None


def job_for(target: str, modules: Collection[str], to: Sequence[str]) -> Job:
    """Say what is to be done with a target; raise CommandError if that cannot be."""
    place = queue_or_maildir(target)
    if isinstance(place, Maildir):
        if not os.access(place.path / "new", os.R_OK | os.W_OK | os.X_OK):
            raise CommandError(f"{target} is not ours to take mail from: we may not write to new.")
        place.remove_halves()
        queue = _queue_for(modules) if modules else INCOMING
        return Job(queue, Pickup(place, queue=queue, to=to))
    if to:
        raise CommandError("--to is for a Maildir: mail in a queue has its recipients.")
    if place.purpose != Queue.Purpose.HANDLERS:
        raise CommandError(f"{place} is {place.get_purpose_display()}, so no handler works it.")
    if modules and place.name == INCOMING:
        raise CommandError("incoming is for all handlers: give --handlers with another queue.")
    return Job(place.name)


def _queue_for(modules: Collection[str]) -> str:
    """Make the queue for mail of Maildirs that these modules alone may take.

    It is held, so that no worker but ours looks there.
    """
    text = ", ".join(sorted(modules))
    name = f"deq-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    made = {
        "purpose": Queue.Purpose.HELD,
        "description": f"Mail of Maildirs for {text} alone, which deq --handlers works.",
    }
    Queue.objects.get_or_create(name=name, defaults=made)
    return name


def _modules(given: Sequence[str]) -> list[str]:
    """Return the names of handler modules that are on; raise CommandError for any other."""
    names = list(dict.fromkeys(name for text in given for name in text.split(",") if name))
    if given and not names:
        raise CommandError("--handlers names no handler.")
    known = dict(Handler.objects.filter(found=True).values_list("module", "enabled"))
    for name in names:
        if name not in known:
            raise CommandError(f"There is no handler {name}, but there are {', '.join(known)}.")
        if not known[name]:
            raise CommandError(f"The handler {name} is switched off.")
    return names


def _addresses(given: Sequence[str]) -> list[str]:
    try:
        return [whole(text) for text in given]
    except BadAddress as error:
        raise CommandError(f"--to: {error}") from error


def _from_everywhere(target: str) -> str:
    """Name a target so that it is the same from whatever folder the command is started again."""
    return target if is_name(target) else str(Path(target).absolute())


def _repeated(option: str, values: Sequence[str]) -> list[str]:
    return [f"{option}={value}" for value in values]


def work_off(job: Job) -> str:
    """Work until nothing is left that is due; say what was done."""
    with living(Process.Kind.WORKER, job.queue) as life:
        for killed in Process.objects.killed_here(Process.Kind.WORKER):
            killed.mark_stopped()
        release_dead(idle=life)
        while job.pickup and not life.stopping.is_set() and job.pickup.take():
            pass
        worked = worker.drain(job.queue, life)
    return _summary(job, worked)


def _summary(job: Job, worked: int) -> str:
    done = f"{worked} worked in {job.queue}."
    if job.pickup is None:
        return done
    taken, aside = f"{job.pickup.taken} taken", ""
    if job.pickup.put_aside:
        aside = f"{job.pickup.put_aside} put aside in {visible(str(job.pickup.errors))}, "
    return f"{taken}, {aside}{done}"


def _watch(job: Job, supervisor_fd: int) -> None:
    with (
        supervised(supervisor_fd) as on_ready,
        living(Process.Kind.WORKER, job.queue) as life,
        watching(job.pickup, life) if job.pickup else contextlib.nullcontext(),
    ):
        worker.serve(job.queue, life, on_ready)
