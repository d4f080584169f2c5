"""Opens the ports, serves until it is asked to end, and ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import uvloop

from mailapp import registry, systemd
from mailapp.conf import MailSettings, mail_settings
from mailapp.endpoints import Endpoint
from mailapp.lifecycle import keep_what_is_loaded, living
from mailapp.models import INCOMING, Process

from . import tls
from .commits import Hired
from .destination import handlers_destination, hire_process
from .limits import Sessions, watched_sessions
from .listener import Destination, Listener
from .lmtp import LmtpDialogue
from .places import port_taken, refuse_taken
from .protocol import Dialogue
from .submission import SubmissionDialogue

_BACKLOG = 1024


def run(on_ready: Callable[[str], None] = print) -> None:
    """Receive mail until SIGTERM or SIGINT; transactions that run then are finished.

    `on_ready` is called with `host:port` once mail is taken. Raise PortTaken.
    """
    _allow_many_connections()
    registry.sync()  # else a recipient that only a new handler takes is refused for good
    with living(Process.Kind.RECEIVER, INCOMING) as life, event_loop() as runner:
        stopping = asyncio.Event()
        loop = runner.get_loop()

        def stop() -> None:
            loop.call_soon_threadsafe(stopping.set)
            # What hangs then, such as a query that is never answered, ends with the process.
            signal.setitimer(signal.ITIMER_REAL, mail_settings().DRAIN_SECONDS)

        life.on_stop(stop)
        if life.stopping.is_set():
            return
        keep_what_is_loaded()
        runner.run(receive(mail_settings(), stopping, on_ready))


def event_loop() -> asyncio.Runner:
    """Return the runner of the loop that the receiver and the catcher use."""
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def _allow_many_connections() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def receive(
    settings: MailSettings,
    stopping: asyncio.Event,
    on_ready: Callable[[str], None],
    hire: Callable[[], Hired] = hire_process,
) -> None:
    """Serve the receiver until `stopping` is set; `hire` starts its storer.

    Raise PortTaken, NotListening or DidNotStart.
    """
    async with (
        handlers_destination(settings, hire) as destination,
        watched_sessions(settings) as sessions,
        contextlib.AsyncExitStack() as ports,
    ):
        listeners = _listeners(settings, destination, sessions)
        handed = systemd.sockets_at([place for place, _ in listeners])
        places = [
            await ports.enter_async_context(listening(listener, place, handed.get(place)))
            for place, listener in listeners
        ]
        on_ready(places[0])
        await stopping.wait()


def _listeners(
    settings: MailSettings, destination: Destination, sessions: Sessions
) -> list[tuple[str, Listener]]:
    """Return the places of the settings, with what listens there."""
    context = None
    if settings.TLS_CERTIFICATE:
        context = tls.server_context(settings.TLS_CERTIFICATE, settings.TLS_KEY)

    def listener(kind: type[Dialogue], *, tls_at_once: bool = False) -> Listener:
        return Listener(settings, destination, sessions, kind, context, tls_at_once)

    places = [
        (settings.RECEIVER, listener(Dialogue)),
        (settings.RECEIVER_TLS, listener(Dialogue, tls_at_once=True)),
        (settings.LMTP, listener(LmtpDialogue)),
        (settings.SUBMISSION, listener(SubmissionDialogue)),
        (settings.SUBMISSION_TLS, listener(SubmissionDialogue, tls_at_once=True)),
    ]
    return [(place, listener) for place, listener in places if place]


@contextlib.asynccontextmanager
async def listening(
    listener: Listener, place: str, handed: socket.socket | None = None
) -> AsyncIterator[str]:
    """Serve a place, `host:port` or the path of a Unix socket, within the body; yield it.

    `handed` is a socket that was opened there for us. At the end no more clients are let in;
    those that are in stay. Raise PortTaken.
    """
    try:
        server = await _open(listener, place, handed)
    except OSError as error:
        raise port_taken(place, error) from error
    try:
        yield _name(server, place)
    finally:
        server.close()


async def _open(listener: Listener, place: str, handed: socket.socket | None) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    if handed:
        serve = loop.create_unix_server if place.startswith("/") else loop.create_server
        return await serve(listener.answer, sock=handed, backlog=_BACKLOG)
    if place.startswith("/"):
        await refuse_taken(place)
        server = await loop.create_unix_server(listener.answer, place, backlog=_BACKLOG)
        Path(place).chmod(0o666)
        return server
    host, port = Endpoint.parse(place)
    shared = listener.settings.RECEIVER_PROCESSES > 1
    return await loop.create_server(
        listener.answer, host, port, backlog=_BACKLOG, reuse_port=shared
    )


def _name(server: asyncio.Server, place: str) -> str:
    """Say where a server listens, with the port that the system chose for port 0."""
    if place.startswith("/"):
        return place
    return str(Endpoint.parse(place)._replace(port=server.sockets[0].getsockname()[1]))
