"""The way of mail over real sockets: a receiver and a smart host on ports of their own.

Both, and the relay between them, run in threads of this process; handlers in the test's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import BinaryIO, Self

from django.conf import settings
from django.db import connection
from django.test import override_settings

from mailapp import dialogue
from mailapp.conf import Endpoint, mail_settings
from mailapp.lifecycle import Life, living
from mailapp.models import OUTGOING, Delivery, NewMail, Process
from mailapp.models.delivery import Status
from mailapp.receiver import replies
from mailapp.receiver.listener import Listener
from mailapp.receiver.server import event_loop, listening
from mailapp.receiver.store import GroupCommit, HandlersDestination, Recipients, store_incoming
from mailapp.registry import current_router
from mailapp.relay.work import Relay
from mailapp.wakeup import listen

from .post import Post, Refused, Sent

_ANY_PORT = Endpoint("127.0.0.1", 0)
_PATIENCE = 30.0  # seconds; only spent when something is broken


class OverSmtp(Post):
    """Over real sockets, within a `with` block.

    The test must not be one transaction (`TransactionTestCase`, the fixture
    `transactional_db`), and SQLite must be a file, not memory.
    """

    def __enter__(self) -> Self:
        self._recipients = Recipients(lambda: current_router(max_age=0))
        self._smart_host = SmartHost()
        with contextlib.ExitStack() as stack:
            servers = Servers(self._recipients, self._smart_host)
            stack.callback(servers.stop)
            self._receiver, relay = servers.start()
            changed = {"RECEIVER": str(self._receiver), "RELAY": str(relay)}
            stack.enter_context(override_settings(MAIL={**settings.MAIL, **changed}))
            stack.callback(_start_relay())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def hand_in(self, sender: str, recipients: Sequence[str], raw: bytes) -> str:
        self._recipients.refresh()
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
                raise TimeoutError(f"The relay did not send {on_its_way.count()} deliveries")
            time.sleep(0.01)

    def sent(self) -> list[Sent]:
        return list(self._smart_host.taken)


class Replies(dialogue.Transcript):
    """Remembers what the receiver said."""

    def __init__(self) -> None:
        super().__init__(str)
        self.heard: list[str] = []

    def received(self, line: bytes, *, wanted: bool, seconds: float | None = None) -> None:
        self.heard.append(dialogue.printable(line))


class SmartHost:
    """The destination that stands for the rest of the world: takes everything, keeps it."""

    def __init__(self) -> None:
        self.taken: list[Sent] = []

    def unavailable(self) -> bytes | None:
        """It always takes mail."""
        return None

    def refusal(self, recipient: str) -> bytes | None:
        """It takes mail for everybody."""
        return None

    async def store(self, mail: NewMail, spool: BinaryIO | None) -> bytes:
        """Keep a mail, large or small."""
        raw = mail.raw
        if spool is not None:
            spool.seek(0)
            raw = spool.read()
        self.taken += [Sent(mail.sender, recipient, raw) for recipient in mail.recipients]
        return replies.STORED


class Servers:
    """The receiver and the smart host, in a thread with an event loop of its own."""

    def __init__(self, recipients: Recipients, smart_host: SmartHost) -> None:
        self._recipients = recipients
        self._smart_host = smart_host
        self._places: Future[tuple[Endpoint, Endpoint]] = Future()
        self._thread = threading.Thread(target=self._run, name="servers", daemon=True)

    def start(self) -> tuple[Endpoint, Endpoint]:
        """Return where the receiver and the smart host listen."""
        self._thread.start()
        return self._places.result(_PATIENCE)

    def stop(self) -> None:
        """Let sessions end, and store what was taken."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(_PATIENCE)

    def _run(self) -> None:
        with event_loop() as runner:
            self._loop = runner.get_loop()
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        commits = GroupCommit(store_incoming)
        commits.start()
        receiver = Listener(mail_settings(), HandlersDestination(self._recipients, commits))
        smart_host = Listener(mail_settings(), self._smart_host)
        async with listening(receiver, _ANY_PORT) as ours, listening(smart_host, _ANY_PORT) as next:
            self._places.set_result((Endpoint.parse(ours), Endpoint.parse(next)))
            await self._stopping.wait()
        await asyncio.to_thread(commits.stop)


def _start_relay() -> Callable[[], None]:
    """Run a relay in a thread; return what ends it."""
    started: Future[Life] = Future()

    def run() -> None:
        try:
            with living(Process.Kind.RELAY, OUTGOING) as life, listen(OUTGOING) as bell:
                life.on_stop(bell.wake)
                started.set_result(life)
                Relay(life, bell).work()
        finally:
            connection.close()

    thread = threading.Thread(target=run, name="relay", daemon=True)
    thread.start()
    life = started.result(_PATIENCE)

    def stop() -> None:
        life.stop()
        thread.join(_PATIENCE)

    return stop
