"""Say what of the mail server runs, whether it is well, and what waits."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from django.core.management.base import CommandError
from django.db import DatabaseError
from django.utils import timezone

from mailapp.ages import duration
from mailapp.counting import CAP, capped
from mailapp.errors import PidFileUnusable
from mailapp.management.command import MailCommand
from mailapp.management.tables import table
from mailapp.mime import one_line, visible
from mailapp.models import Delivery, Process
from mailapp.overview import Overview
from mailapp.pidfile import PidFile

WELL, NOT_WELL, NOT_RUNNING, UNKNOWN = 0, 1, 3, 4  # exit codes; 2 is a wrong argument


class Command(MailCommand):
    help = """
    Say whether runmail, or what was started with --detach, runs on this machine, which parts
    are alive on any machine and what they work on, and how much waits in each queue. Exit
    code: 0 it runs and all is well, 1 something is not, 3 nothing runs here, 4 the database
    cannot be asked.

    Example: manage.py mailstatus
             manage.py mailstatus --json
    """
    requires_system_checks = ()

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        status = _status()
        if options["json"]:
            self.stdout.write(json.dumps(asdict(status), indent=2, default=str))
        else:
            self.stdout.write("\n".join(_lines(status)))
        sys.exit(status.exit_code)


@dataclass(frozen=True)
class ProcessStatus:
    """A part with a heartbeat."""

    kind: str
    queue: str
    host: str
    pid: int
    since: str  #: ISO 8601
    alive: bool
    heartbeat_seconds: float  #: since the last one
    works_on: str

    @classmethod
    def of(cls, row: Process) -> ProcessStatus:
        return cls(
            kind=row.kind,
            queue=row.queue,
            host=row.host,
            pid=row.pid,
            since=row.started_at.isoformat(timespec="seconds"),
            alive=row.is_alive,
            heartbeat_seconds=_seconds_since(row.heartbeat_at),
            works_on=row.activity,
        )


@dataclass(frozen=True)
class QueueStatus:
    """What waits in a queue. Counts stop at one more than `mailapp.counting.CAP`."""

    name: str
    paused: bool
    due: int
    deferred: int
    held: int
    oldest_due_seconds: float | None

    @classmethod
    def of(cls, row: Any) -> QueueStatus:
        due = Delivery.objects.filter(queue=row.name).due()
        return cls(
            name=row.name,
            paused=row.paused,
            due=due[: CAP + 1].count(),
            deferred=row.deferred,
            held=row.held,
            oldest_due_seconds=_seconds_since(row.oldest_due) if row.oldest_due else None,
        )


@dataclass(frozen=True)
class OtherStatus:
    """A command in the background of this machine that is not runmail."""

    name: str
    pid: int | None  #: by the lock on its pid file
    left_by: int | None  #: the killed process that the pid file names
    pid_file: str

    @classmethod
    def of(cls, pid_file: PidFile) -> OtherStatus:
        return cls(pid_file.name, pid_file.pid(), pid_file.left_by(), str(pid_file.path))


@dataclass(frozen=True)
class Status:
    """All that the command says."""

    running: bool  #: runmail, here, by the lock on the pid file
    pid: int | None
    left_by: int | None  #: the killed process that the pid file names
    pid_file: str
    others: Sequence[OtherStatus]
    problems: Sequence[str]
    processes: Sequence[ProcessStatus]
    queues: Sequence[QueueStatus]

    @property
    def exit_code(self) -> int:
        if not self.running and not any(each.pid for each in self.others):
            return NOT_RUNNING
        return NOT_WELL if self.problems else WELL


def _status() -> Status:
    pid_file = PidFile.of_runmail()
    try:
        pid, left_by = pid_file.pid(), pid_file.left_by()
        here = [each for each in PidFile.here() if each.name != pid_file.name]
        others = [OtherStatus.of(each) for each in here]
    except PidFileUnusable as error:
        raise CommandError(str(error), returncode=UNKNOWN) from error
    try:
        overview = Overview.now()
        return Status(
            running=pid is not None,
            pid=pid,
            left_by=left_by,
            pid_file=str(pid_file.path),
            others=others,
            problems=[problem.text for problem in overview.problems()],
            processes=[ProcessStatus.of(row) for row in overview.processes],
            queues=[QueueStatus.of(row) for row in overview.queues],
        )
    except DatabaseError as error:
        runs = f"runmail runs as process {pid}" if pid else "runmail does not run here"
        raise CommandError(
            f"The database does not answer, but {runs}: {one_line(str(error))}",
            returncode=UNKNOWN,
        ) from error


def _seconds_since(moment: Any) -> float:
    return round((timezone.now() - moment).total_seconds(), 1)


def _lines(status: Status) -> Iterator[str]:
    yield _headline("runmail", status)
    yield from (_headline(each.name, each) for each in status.others)
    yield from (f"! {problem}" for problem in status.problems)
    yield ""
    if status.processes:
        yield from table(
            ["part", "queue", "host", "pid", "started", "heartbeat", "works on"],
            [_process_cells(each) for each in status.processes],
        )
        yield ""
    yield from table(
        ["queue", "due", "deferred", "held", "oldest due"],
        [_queue_cells(each) for each in status.queues],
    )


def _headline(name: str, status: Status | OtherStatus) -> str:
    if status.pid:
        return f"{name} runs here as process {status.pid}."
    if status.left_by:
        return (
            f"{name} does not run here: process {status.left_by}, which {status.pid_file} names, "
            "was killed."
        )
    return f"{name} does not run here."


def _process_cells(process: ProcessStatus) -> list[str]:
    heartbeat = f"{duration(process.heartbeat_seconds)} ago"
    return [
        process.kind,
        process.queue,
        process.host,
        str(process.pid),
        process.since,
        heartbeat if process.alive else f"{heartbeat}, silent",
        visible(process.works_on),
    ]


def _queue_cells(queue: QueueStatus) -> list[str]:
    oldest = queue.oldest_due_seconds
    return [
        f"{queue.name} (paused)" if queue.paused else queue.name,
        capped(queue.due),
        capped(queue.deferred),
        capped(queue.held),
        "" if oldest is None else duration(oldest),
    ]
