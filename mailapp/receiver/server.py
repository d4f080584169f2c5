"""Opens the ports, serves until it is asked to end, and ends in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import uvloop

from mailapp import registry
from mailapp.conf import Endpoint, mail_settings
from mailapp.errors import PortTaken
from mailapp.lifecycle import living
from mailapp.models import INCOMING, Process

from .listener import Listener
from .store import handlers_destination


def run(on_ready: Callable[[str], None] = print) -> None:
    """Receive mail until SIGTERM or SIGINT; transactions that run then are finished.

    `on_ready` is called with `host:port` once mail is taken. Raise PortTaken.
    """
    registry.sync()  # a recipient that only a new handler takes must not be refused for good
    with living(Process.Kind.RECEIVER, INCOMING) as life, event_loop() as runner:
        stopping = asyncio.Event()
        loop = runner.get_loop()

        def stop() -> None:
            loop.call_soon_threadsafe(stopping.set)

        life.on_stop(stop)
        runner.run(_receive(stopping, on_ready))


def event_loop() -> asyncio.Runner:
    """Return the runner of the loop that the receiver and the catcher use."""
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


async def _receive(stopping: asyncio.Event, on_ready: Callable[[str], None]) -> None:
    settings = mail_settings()
    endpoint = Endpoint.parse(settings.RECEIVER)
    async with (
        handlers_destination() as destination,
        listening(Listener(settings, destination), endpoint) as place,
    ):
        on_ready(place)
        await stopping.wait()


@contextlib.asynccontextmanager
async def listening(listener: Listener, endpoint: Endpoint) -> AsyncIterator[str]:
    """Serve a port within the body; yield its `host:port`.

    At the end new connections are refused, transactions that run have `DRAIN_SECONDS` to
    end, and everybody else is told 421. Raise PortTaken.
    """
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(
            listener.answer, endpoint.host, endpoint.port, backlog=1024
        )
    except OSError as error:
        raise PortTaken(f"{endpoint} ({error.strerror})") from error
    port = server.sockets[0].getsockname()[1]
    try:
        yield str(endpoint._replace(port=port))
    finally:
        server.close()
        listener.draining = True
        await listener.sessions.drain(listener.settings.DRAIN_SECONDS)
        await server.wait_closed()
