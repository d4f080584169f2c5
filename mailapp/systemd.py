"""What systemd hands over to a service, and is told by it: open sockets, and that we are ready.

As sd_listen_fds(3) and sd_notify(3) have it. Without systemd there are none, and nobody is told.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from collections.abc import Sequence

from mailapp.endpoints import Endpoint
from mailapp.errors import NotListening

_FIRST = 3  # the number of the first descriptor that is handed over


def descriptors() -> list[int]:
    """The numbers of the sockets that were opened for this process, or for its parent."""
    if os.environ.get("LISTEN_PID") not in {str(os.getpid()), str(os.getppid())}:
        return []
    return list(range(_FIRST, _FIRST + int(os.environ.get("LISTEN_FDS", "0"))))


def sockets_at(places: Sequence[str]) -> dict[str, socket.socket]:
    """Return the sockets that were opened for us, by the place where each listens.

    A place is `host:port` or the path of a Unix socket. Raise NotListening for a socket that
    is at none of them: who connects there would wait in vain.
    """
    found = {}
    wanted = {_written_alike(place): place for place in places}
    for number in descriptors():
        handed = socket.socket(fileno=os.dup(number))
        at = _place_of(handed)
        if at not in wanted:
            handed.close()
            raise NotListening(at)
        found[wanted[at]] = handed
    return found


def _place_of(handed: socket.socket) -> str:
    name = handed.getsockname()
    return str(Endpoint(*name[:2])) if isinstance(name, tuple) else str(name)


def _written_alike(place: str) -> str:
    if not place.startswith("/"):
        endpoint = Endpoint.parse(place)
        with contextlib.suppress(ValueError):  # a name, which no socket has
            return str(endpoint._replace(host=str(ipaddress.ip_address(endpoint.host))))
    return place


def tell(state: str) -> None:
    """Tell systemd how we are: `READY=1`, `STOPPING=1`."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        if address:
            line.sendto(state.encode(), address)
