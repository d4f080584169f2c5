"""The lines that come from a smart host: in time, and none that is overlooked."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from mailapp.relay.client import Lines

BLOCK = b"250 " + b"x" * 8186 + b"\r\n"  # as much as is read at once


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a connection; the first is ours."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(5)
        yield ours, theirs


@pytest.fixture
def tls_pair(pair, certificate) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    """The same, by TLS."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate.chain)
    client = ssl.create_default_context(cafile=certificate.authority)
    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(server.wrap_socket, pair[1], server_side=True)
        ours = client.wrap_socket(pair[0], server_hostname="localhost")
        with ours, theirs.result():
            yield ours, theirs.result()


def _read(lines: Lines) -> bytes:
    return lines.read(time.monotonic() + 5, 65536)


@pytest.mark.parametrize("kind", ["pair", "tls_pair"])
def test_what_came_is_seen_before_it_is_read(request, kind):
    ours, theirs = request.getfixturevalue(kind)
    lines = Lines(ours)
    theirs.sendall(b"250 Ok\r\n")
    assert _read(lines) == b"250 Ok\r\n"
    assert lines.is_fresh()

    theirs.sendall(b"250 Too many\r\n")

    assert not lines.is_fresh()


def test_what_tls_has_deciphered_is_seen_before_it_is_read(tls_pair):
    ours, theirs = tls_pair
    lines = Lines(ours)

    theirs.sendall(BLOCK + b"250 Too many\r\n")

    assert _read(lines) == BLOCK
    assert not lines.is_fresh()


def test_what_came_for_tls_itself_is_no_reply(tls_pair):
    ours, _ = tls_pair  # with TLS 1.3, tickets follow the handshake

    assert Lines(ours).is_fresh()


@pytest.mark.parametrize("kind", ["pair", "tls_pair"])
def test_connection_that_was_closed_is_not_fresh(request, kind):
    ours, theirs = request.getfixturevalue(kind)

    theirs.close()

    assert not Lines(ours).is_fresh()


@pytest.mark.parametrize("begun", [b"", b"250-"])
def test_line_that_is_late_is_not_waited_for(pair, begun):
    ours, theirs = pair
    lines, began = Lines(ours), time.monotonic()
    theirs.sendall(begun)

    with pytest.raises(TimeoutError):
        lines.read(began + 0.1, 65536)

    assert 0.1 <= time.monotonic() - began < 4
    assert ours.gettimeout() == 5
