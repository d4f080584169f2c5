"""A bucket for the tests, at a server that speaks the protocol of S3 and keeps it in memory."""

from __future__ import annotations

import socket
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

from tests.waiting import DEADLINE, wait_until

_HOST = "127.0.0.1"
_NEEDED = ("moto.server", "flask", "storages.backends.s3")


class NoBucket(Exception):
    """There is nothing to keep a bucket with."""


class Bucket:
    """The bucket `mail`, at a server of its own."""

    def __init__(self) -> None:
        """Raise NoBucket when what it needs is not installed."""
        if not all(map(_is_installed, _NEEDED)):
            raise NoBucket('pip install "moto[server]" "django-storages[s3]"')
        with socket.create_server((_HOST, 0)) as free:
            self._port = free.getsockname()[1]
        self.url = f"http://{_HOST}:{self._port}"

    def start(self) -> None:
        """Return when it can be written to."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", _HOST, "-p", str(self._port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(self._answers)
        _client(self.url).create_bucket(Bucket="mail")

    def _answers(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex((_HOST, self._port)) == 0

    def names(self) -> list[str]:
        """What is in it."""
        found = _client(self.url).list_objects_v2(Bucket="mail")
        return [each["Key"] for each in found.get("Contents", [])]

    def stop(self) -> None:
        """End the server, with all that it holds."""
        self._process.terminate()
        self._process.wait(DEADLINE)


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _client(url: str) -> Any:
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="tests",
        aws_secret_access_key="tests",
    )
