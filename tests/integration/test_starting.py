"""What keeps a long-running command from starting, said before it is tried."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailapp.errors import PortTaken
from mailapp.management.starting import check_places
from tests.project import HOST, free_ports

pytestmark = pytest.mark.any_database


@pytest.fixture
def taken() -> Iterator[str]:
    """A place where somebody listens."""
    with socket.create_server((HOST, 0)) as server:
        yield f"{HOST}:{server.getsockname()[1]}"


@pytest.fixture
def path() -> Iterator[Path]:
    """The path of a Unix socket, which cannot be long."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "lmtp"


def test_places_that_are_free_are_fit(path):
    [port] = free_ports(1)

    check_places([f"{HOST}:{port}", f"{HOST}:0", f"localhost:{port}", str(path)], [])


def test_place_of_another_program_is_named(taken):
    with pytest.raises(PortTaken, match=rf"{taken} \(Address already in use\)"):
        check_places([taken], [f"{HOST}:1"])


def test_place_of_what_is_about_to_end_is_fit_however_its_address_is_written(taken):
    port = taken.rpartition(":")[2]

    check_places([taken, f"0.0.0.0:{port}", f"localhost:{port}"], [taken])


@pytest.mark.parametrize("place", ["192.0.2.1:8823", "nowhere.invalid:8823"])
def test_place_that_is_not_on_this_machine_is_none(place):
    with pytest.raises(PortTaken, match=place):
        check_places([place], [])


def test_unix_socket_is_taken_as_long_as_somebody_listens_there(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with pytest.raises(PortTaken, match=str(path)):
            check_places([str(path)], [])
        check_places([str(path)], [str(path)])

    check_places([str(path)], [])  # a stale one is no matter
