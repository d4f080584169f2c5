"""The way of mail over real sockets: a receiver and a smart host on ports of their own.

Both, and the relay between them, run in threads of this process; handlers in the test's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, BinaryIO, NamedTuple, Protocol, Self, TypeVar

from django.conf import settings
from django.db import connection
from django.test import override_settings

from mailapp import dialogue
from mailapp.amounts import amount
from mailapp.conf import mail_settings
from mailapp.endpoints import Endpoint
from mailapp.lifecycle import Life, living
from mailapp.models import OUTGOING, Delivery, NewMail, Process, Status
from mailapp.receiver import replies
from mailapp.receiver.commits import Hired
from mailapp.receiver.limits import watched_sessions
from mailapp.receiver.line import StorersLine
from mailapp.receiver.listener import Kept, Listener, OpenToAll, whole_content
from mailapp.receiver.server import event_loop, listening, receive
from mailapp.receiver.storer import Result, Work, serve
from mailapp.relay.work import Relay
from mailapp.wakeup import listen

from .post import Post, Refused, Sent, in_use

_ANY_PORT = "127.0.0.1:0"
_PATIENCE = 30.0  # seconds; only spent when something is broken


class OverSmtp(Post):
    """Over real sockets, within a `with` block.

    The test must not be one transaction (`TransactionTestCase`, the fixture
    `transactional_db`), and SQLite must be a file, not memory. Handlers that are switched
    on within the block are noticed by the receiver a second later.
    """

    def __enter__(self) -> Self:
        self._smart_host = SmartHost()
        with contextlib.ExitStack() as stack:
            servers = stack.enter_context(running(serve_with(self._smart_host)))
            self._receiver = Endpoint.parse(servers.receiver)
            changed = {"RECEIVER": servers.receiver, "RELAY": servers.smart_host}
            stack.enter_context(override_settings(MAIL={**settings.MAIL, **changed}))
            stack.enter_context(running(relay))
            stack.enter_context(in_use(self))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def hand_in(self, sender: str, recipients: Sequence[str], raw: bytes) -> str:
        plan = dialogue.Plan(server=self._receiver, helo="client.test")
        letter = dialogue.Letter(sender=sender, recipients=recipients, content=raw)
        transcript = Replies()
        try:
            dialogue.hold(plan, letter, transcript)
        except dialogue.Refused as refused:
            raise Refused(refused.reason) from None
        *_, stored, _bye = transcript.heard
        return stored

    def work(self) -> None:
        super().work()
        on_its_way = Delivery.objects.filter(
            queue=OUTGOING, status__in=[Status.QUEUED, Status.CLAIMED]
        )
        deadline = time.monotonic() + _PATIENCE
        while on_its_way.exists():
            if time.monotonic() > deadline:
                unsent = amount(on_its_way.count(), "delivery", "deliveries")
                raise TimeoutError(f"The relay did not send {unsent}")
            time.sleep(0.01)

    def sent(self) -> list[Sent]:
        return list(self._smart_host.taken)

    def forget(self, count: int) -> None:
        del self._smart_host.taken[:count]


class Replies(dialogue.Transcript):
    """Remembers what the receiver said."""

    def __init__(self) -> None:
        super().__init__(str)
        self.heard: list[str] = []

    def received(self, line: bytes, *, wanted: bool, seconds: float | None = None) -> None:
        self.heard.append(dialogue.printable(line))


class SmartHost(OpenToAll):
    """The destination that stands for the rest of the world: takes everything, keeps it."""

    def __init__(self) -> None:
        self.taken: list[Sent] = []

    async def store(self, mail: NewMail, spool: BinaryIO | None) -> Kept:
        """Keep a mail, large or small."""
        raw = whole_content(mail, spool)
        self.taken += [Sent(mail.sender, recipient, raw) for recipient in mail.recipients]
        return Kept(replies.STORED)


class Stoppable(Protocol):
    """What runs in the background."""

    def stop(self) -> None:
        """Ask it to end."""


Running = TypeVar("Running", bound=Stoppable)


@contextlib.contextmanager
def running(work: Callable[[Future[Running]], None]) -> Iterator[Running]:
    """Have `work` done in a thread within the block; yield what it says once it is ready.

    What it raises is raised here.
    """
    ready: Future[Running] = Future()
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(work, ready)
        both: list[Future[Any]] = [ready, ended]
        wait(both, _PATIENCE, FIRST_COMPLETED)
        if ended.done():
            ended.result()
        running = ready.result(0)
        try:
            yield running
        finally:
            running.stop()
            ended.result(_PATIENCE)


def relay(ready: Future[Life]) -> None:
    """Send what is due until the life is to stop."""
    try:
        with living(Process.Kind.RELAY, OUTGOING) as life, listen(OUTGOING) as bell:
            life.on_stop(bell.wake)
            ready.set_result(life)
            Relay(life, bell).work()
    finally:
        connection.close()


def hire_thread(storer: Callable[[Work], Sequence[Result]] | None = None) -> Hired:
    """Start a storer in a thread of this process; by default the usual one."""
    ours, theirs = socket.socketpair()

    def work() -> None:
        with theirs:
            serve(StorersLine(theirs), storer)

    thread = threading.Thread(target=work, name="storer", daemon=True)
    thread.start()
    return Hired(ours, thread.join, lambda: None)


class Servers(NamedTuple):
    """Where the receiver and the smart host listen, and how to end them."""

    receiver: str
    smart_host: str
    stop: Callable[[], None]


def serve_with(smart_host: SmartHost) -> Callable[[Future[Servers]], None]:
    """Return what serves a receiver, and `smart_host`."""

    async def serve(ready: Future[Servers]) -> None:
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()
        conf = dataclasses.replace(
            mail_settings(),
            RECEIVER=_ANY_PORT,
            RECEIVER_TLS="",
            LMTP="",
            SUBMISSION="",
            SUBMISSION_TLS="",
        )

        def stop() -> None:
            loop.call_soon_threadsafe(stopping.set)

        async with (
            watched_sessions(conf) as sessions,
            listening(Listener(conf, smart_host, sessions), _ANY_PORT) as relayed_to,
        ):
            await receive(
                conf,
                stopping,
                lambda place: ready.set_result(Servers(place, relayed_to, stop)),
                hire_thread,
            )

    def run(ready: Future[Servers]) -> None:
        with event_loop() as runner:
            runner.run(serve(ready))

    return run
