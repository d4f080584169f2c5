"""Starts receiver, workers, relay and the rest as child processes, and ends them together.

A child says that it serves by a line on a socket it inherits; the end of that socket tells
it that the supervisor is gone. A child that dies while serving is started again.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from django.db import Error, connection
from django.utils import timezone

from mailapp import systemd
from mailapp.children import Running
from mailapp.conf import mail_settings
from mailapp.containment import OUT_OF_TIME, ending
from mailapp.errors import DidNotStart
from mailapp.inhand import InHand
from mailapp.lifecycle import on_signals
from mailapp.models import Process
from mailapp.standins import StandIns, Watched, seconds_between_looks

logger = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_RUN_HANDLERS = ("worker", "receiver", "web")
#: What a successor settles, before it says that they ended: what a receiver stored unheard, and
#: what a relay sent.
_SUCCEEDED = (Process.Kind.RECEIVER, Process.Kind.RELAY)


@dataclass
class Child(Watched):
    """One part of `runmail`, or one worker of `runworker`."""

    part: str
    ready: str = ""  #: what it said when it was ready: its address or its queue
    pause: float = _FIRST_PAUSE  #: seconds until a restart
    start_at: float = 0  #: when to start it (monotonic)
    renewed: bool = False  #: it was asked to end so that it starts again


@dataclass
class Supervisor:
    """Keeps the parts running until it is asked to stop."""

    command: Sequence[str]  #: what starts a part, which is its last argument
    parts: Sequence[str]
    on_ready: Callable[[dict[str, str]], None]
    worker: str = ""  #: the part that runs handlers and shows what it has in hand
    keep: Sequence[int] = ()  #: descriptors that the parts inherit
    children: list[Child] = field(default_factory=list)
    announced: bool = False
    outdated: bool = False  #: `renew` was called

    def run(self) -> None:
        """Start all parts, in order; return when all have ended after SIGTERM or SIGINT.

        Raise DidNotStart when a part cannot start; it has said why on standard error.
        """
        self.wake, self.waker = socket.socketpair()
        self.stopping = False
        self.children = [Child(part) for part in self.parts]
        self.stand_ins = StandIns(self._add_stand_in, workers=self.parts.count(self.worker))
        with on_signals(self._ask_to_stop), selectors.DefaultSelector() as self.selector:
            self.selector.register(self.wake, selectors.EVENT_READ)
            try:
                while not self.stopping:
                    self._start_what_should_run()
                    self._listen()
                    if self.announced:
                        self.stand_ins.look_after(self.children)
                    if self.outdated:
                        self._renew_parts()
            finally:
                self._end_all()

    def renew(self) -> None:
        """Have the parts that run handlers end in good order and start again; in any thread.

        Not before all parts are ready.
        """
        self.outdated = True
        self.waker.send(b"r")

    def _renew_parts(self) -> None:
        self.outdated = False
        for child in self.children:
            if child.part in _RUN_HANDLERS:
                child.start_at, child.pause = 0, _FIRST_PAUSE
                if child.running:
                    child.renewed = True
                    child.running.process.terminate()

    def _ask_to_stop(self, *ignored: object) -> None:
        self.stopping = True
        self.waker.send(b"s")

    def _start_what_should_run(self) -> None:
        for child in self.children:
            if child.running is None and child.start_at <= time.monotonic():
                child.running, child.ready = self._start(child), ""
                self.selector.register(child.running.line, selectors.EVENT_READ, child)

    def _start(self, child: Child) -> Running:
        command = ["-m", "django", *self.command, child.part, "--skip-checks"]  # which we passed
        keep = [*self.keep, *systemd.descriptors()]
        if child.part != self.worker:
            return Running.start(*command, "--supervisor-fd", keep=keep)
        child.in_hand, fd = InHand.shared()
        try:
            command += ["--in-hand-fd", str(fd)]
            return Running.start(*command, "--supervisor-fd", keep=[*keep, fd])
        finally:
            os.close(fd)

    def _patience(self) -> float | None:
        """For how many seconds there is nothing to do unless somebody says something."""
        moments = [child.start_at for child in self.children if child.running is None]
        pauses = [max(moment - time.monotonic(), 0) for moment in moments]
        if self.announced and self.worker in self.parts:
            pauses.append(seconds_between_looks())
        return min(pauses, default=None)

    def _listen(self) -> None:
        for key, _ in self.selector.select(self._patience()):
            said = key.fileobj.recv(4096)  # type: ignore[union-attr]
            if key.data is None:
                continue
            if said:
                self._is_ready(key.data, said.decode().strip())
            else:
                self._has_ended(key.data)

    def _is_ready(self, child: Child, said: str) -> None:
        child.ready, child.pause = said, _FIRST_PAUSE
        if not self.announced and all(each.ready for each in self.children):
            self.announced = True
            self.on_ready({each.part: each.ready for each in self.children})
            systemd.tell("READY=1")

    def _has_ended(self, child: Child) -> None:
        code = self._bury(child)
        if not self.announced:
            raise DidNotStart(child.part)
        if child.stands_in:
            self.children.remove(child)
            logger.log(
                logging.ERROR if code else logging.INFO, "A stand-in ended (%s)", ending(code)
            )
            return
        if child.renewed:
            child.renewed = False
            return
        # A handler that ends its process does so three times with a mail, while others wait.
        pause = 0 if child.was_in_handler else child.pause
        logger.error("%s ended (%s) and starts again in %.1f s", child.part, ending(code), pause)
        child.start_at = time.monotonic() + pause
        child.pause = min(child.pause * 2, _LONGEST_PAUSE)

    def _add_stand_in(self) -> None:
        self.children.append(Child(self.worker, stands_in=True))

    def _bury(self, child: Child) -> int:
        """Wait for a process that has ended or is about to, and free what it had claimed."""
        assert child.running is not None
        process, line = child.running
        self.selector.unregister(line)
        line.close()
        child.running = None
        code = self._wait(child.part, process, mail_settings().DRAIN_SECONDS)
        if child.overdue:
            child.overdue, code = False, -OUT_OF_TIME
        _mark_stopped(process.pid, ending(code))
        return code

    def _wait(self, part: str, process: subprocess.Popen[bytes], seconds: float) -> int:
        """Return the exit code of a process, which is killed if it does not end in time."""
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            logger.error("%s did not end in time and is killed", part)  # noqa: TRY400
            process.kill()
            return process.wait()

    def _end_all(self) -> None:
        systemd.tell("STOPPING=1")
        # The catcher plays the smart host, to which the relay hands what it has begun.
        self._end([child for child in self.children if child.part != "catcher"])
        self._end(self.children)

    def _end(self, children: Sequence[Child]) -> None:
        running = [(child, child.running.process) for child in children if child.running]
        for _, process in running:
            process.terminate()
        deadline = time.monotonic() + mail_settings().DRAIN_SECONDS
        for child, process in running:
            self._wait(child.part, process, max(deadline - time.monotonic(), 0.1))
            self._bury(child)


def _mark_stopped(pid: int, how: str) -> None:
    """Say in the row of a process how it ended and, but for a successor, that it did.

    Then its claims are free at once.
    """
    ended = Process.objects.unended_here().filter(pid=pid)
    try:
        ended.update(activity=how)
        ended.exclude(kind__in=_SUCCEEDED).update(stopped_at=timezone.now())
    except Error as error:
        logger.warning("Its claims are free only when its heartbeat is old: %s", error)
    finally:
        connection.close()  # until the next time it may be cut
