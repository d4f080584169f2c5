"""Places to listen at, `host:port` or the path of a Unix socket: whether somebody is there."""

from __future__ import annotations

import asyncio
import contextlib
import os

from mailapp.endpoints import Endpoint
from mailapp.errors import PortTaken


def check_free(place: str) -> None:
    """Raise PortTaken when nothing new can listen at a place."""
    try:
        asyncio.run(_try(place))
    except OSError as error:
        raise port_taken(place, error) from error


async def _try(place: str) -> None:
    if place.startswith("/"):
        await refuse_taken(place)
        return
    host, port = Endpoint.parse(place)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, host, port, start_serving=False)
    server.close()


async def refuse_taken(path: str) -> None:
    """Raise OSError when somebody listens on a Unix socket; a stale one is no matter."""
    with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
        _, writer = await asyncio.open_unix_connection(path)
        writer.close()
        raise OSError("somebody listens there")


def port_taken(place: str, error: OSError) -> PortTaken:
    """Make of an error what is told; asyncio says the place again in its own words."""
    number = error.errno or 0  # negative for a name that is not known, and means something else
    return PortTaken(f"{place} ({os.strerror(number) if number > 0 else error})")
