"""Starts receiver, workers, relay and the rest as child processes, and ends them together.

A child says that it serves by a line on a socket it inherits; the end of that socket tells
it that the supervisor is gone. A child that dies while serving is started again. While a worker is
stuck in a handler, another stands in for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from django.db import Error, connection
from django.utils import timezone

from mailapp import systemd
from mailapp.children import Running
from mailapp.conf import mail_settings
from mailapp.containment import OUT_OF_TIME, ending, is_over, slow_seconds
from mailapp.errors import DidNotStart
from mailapp.inhand import InHand
from mailapp.models import Delivery, Process
from mailapp.wakeup import notify

logger = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_RUN_HANDLERS = ("worker", "receiver", "web")
_LOOKS = 3  # at each worker while a handler becomes slow
_MOST_STAND_INS = 2  # for each worker: those who stand in may get stuck, too
_STAND_IN_SECONDS = 60.0  # that a stand-in stays when nobody is stuck any more
#: What a successor settles, before it says that they ended: what a receiver stored unheard, and
#: what a relay sent.
_SUCCEEDED = (Process.Kind.RECEIVER, Process.Kind.RELAY)


@dataclass
class Child:
    """One part of `runmail`, or one worker of `runworker`."""

    part: str
    running: Running | None = None
    ready: str = ""  #: what it said when it was ready: its address or its queue
    pause: float = _FIRST_PAUSE  #: seconds until a restart
    start_at: float = 0  #: when to start it (monotonic)
    renewed: bool = False  #: it was asked to end so that it starts again
    in_hand: InHand | None = None  #: of a worker
    stands_in: bool = False  #: for a worker that is stuck; is not started again
    tending: threading.Thread | None = None
    overdue: bool = False  #: it was killed over its handler

    @property
    def is_stuck(self) -> bool:
        """True of a worker whose handler takes so long that nobody is to wait for it."""
        if self.running is None or self.in_hand is None:
            return False
        return self.in_hand.seconds > slow_seconds()

    @property
    def was_in_handler(self) -> bool:
        """True of a worker that ended while it ran a handler."""
        return self.in_hand is not None and self.in_hand.since > 0


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
    stuck_at: float = 0  #: when stand-ins were last needed (monotonic)

    def run(self) -> None:
        """Start all parts, in order; return when all have ended after SIGTERM or SIGINT.

        Raise DidNotStart when a part cannot start; it has said why on standard error.
        """
        self.wake, self.waker = socket.socketpair()
        self.stopping = False
        self.children = [Child(part) for part in self.parts]
        with on_signals(self._ask_to_stop), selectors.DefaultSelector() as self.selector:
            self.selector.register(self.wake, selectors.EVENT_READ)
            try:
                while not self.stopping:
                    self._start_what_should_run()
                    self._listen()
                    self._stand_in()
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
            pauses.append(slow_seconds() / _LOOKS)
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

    # Those who stand in for workers that are stuck

    def _stand_in(self) -> None:
        """Have as many others work as workers are stuck, and those not for long who are not."""
        if not self.announced:
            return
        stuck = [child for child in self.children if child.is_stuck]
        for child in stuck:
            _tend(child)
            _end_in_time(child)
        stand_ins = [child for child in self.children if child.stands_in]
        most = _MOST_STAND_INS * self.parts.count(self.worker)
        if len(stuck) >= len(stand_ins):
            self.stuck_at = time.monotonic()
        if len(stand_ins) < min(len(stuck), most):
            logger.warning("A worker is stuck in a handler; another stands in for it")
            self.children.append(Child(self.worker, stands_in=True))
        elif stand_ins and time.monotonic() > self.stuck_at + _STAND_IN_SECONDS:
            self.stuck_at = time.monotonic()
            _ask_one_to_end(stand_ins)

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
    ended = Process.objects.filter(host=socket.gethostname()[:255], pid=pid, stopped_at=None)
    try:
        ended.update(activity=how)
        ended.exclude(kind__in=_SUCCEEDED).update(stopped_at=timezone.now())
    except Error as error:
        logger.warning("Its claims are free only when its heartbeat is old: %s", error)
    finally:
        connection.close()  # until the next time it may be cut


def _ask_one_to_end(stand_ins: Sequence[Child]) -> None:
    free = [child.running for child in stand_ins if child.running and not child.is_stuck]
    if free:
        free[0].process.terminate()


def _tend(child: Child) -> None:
    """Do for a worker that is stuck what it cannot do itself, beside all else.

    SQLite may have us wait, if it is stuck in the middle of a transaction.
    """
    if child.running and child.in_hand and not (child.tending and child.tending.is_alive()):
        what = (child.running.process.pid, child.in_hand)
        child.tending = threading.Thread(target=act_for, args=what, daemon=True)
        child.tending.start()


def _end_in_time(child: Child) -> None:
    """Kill a worker whose handler has taken the clock for itself and runs on."""
    if child.running and child.in_hand and is_over(child.in_hand.seconds):
        child.overdue = True
        child.running.process.kill()


def act_for(pid: int, in_hand: InHand) -> None:
    """Say that a process lives, and give back what waits behind what it is stuck in.

    Unless it has gone on meanwhile: then it has given that back itself, and may have it again.
    """
    since, behind = in_hand.since, in_hand.behind
    it = Process.objects.filter(host=socket.gethostname()[:255], pid=pid, stopped_at=None)
    try:
        it.update(heartbeat_at=timezone.now())
        waiting = list(Delivery.objects.claimed().filter(pk__in=behind, claimed_by__in=it))
        if in_hand.since != since or in_hand.seconds <= slow_seconds():
            return
        Delivery.objects.give_back(waiting)
        for queue in {delivery.queue_id for delivery in waiting}:
            notify(queue)
    except Error as error:
        logger.warning("What waits behind a stuck handler goes on waiting: %s", error)
    finally:
        connection.close()


@contextlib.contextmanager
def on_signals(handler: Callable[..., None]) -> Iterator[None]:
    """Have SIGTERM and SIGINT call `handler` within the body."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextlib.contextmanager
def supervised(fd: int | None) -> Iterator[Callable[[str], None]]:
    """In a child: give the function that says "ready", and end when the supervisor is gone."""
    if fd is None:
        yield lambda said: systemd.tell("READY=1")
        return
    ended = threading.Event()
    with socket.socket(fileno=fd) as line:
        threading.Thread(target=_end_with, args=(line, ended), daemon=True).start()
        try:
            yield lambda said: line.sendall(said.encode() + b"\n")
        finally:
            ended.set()
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)


def _end_with(line: socket.socket, ended: threading.Event) -> None:
    with contextlib.suppress(OSError):
        line.recv(1)
    if not ended.is_set():
        os.kill(os.getpid(), signal.SIGTERM)
