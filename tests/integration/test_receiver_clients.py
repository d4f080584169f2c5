"""Programs that others wrote deliver to the receiver."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

import pytest

from mailapp.receiver.lmtp import LmtpDialogue
from tests.integration.receiving import Shelf, receiving
from tests.waiting import DEADLINE

Run = Callable[..., None]


@pytest.fixture
def run() -> Run:
    """Run a program; skip where there is none."""

    def run(program: str, *arguments: str) -> None:
        path = shutil.which(program) or shutil.which(program, path="/usr/sbin")
        if path is None:
            pytest.skip(f"there is no {program}")
        done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=DEADLINE)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def test_smtp_source(run: Run) -> None:
    shelf = Shelf()
    with receiving(shelf) as receiver:
        run("smtp-source", "-s", "10", "-m", "100", "-l", "4000", "-d", "-t", "you@example.com",
            f"127.0.0.1:{receiver.port}")  # fmt: skip

    assert len(shelf.mails) == 100


def test_smtp_source_by_lmtp(run: Run) -> None:
    shelf = Shelf()
    with receiving(shelf, kind=LmtpDialogue) as receiver:
        run("smtp-source", "-L", "-m", "10", "-r", "3", "-t", "you@example.com",
            f"127.0.0.1:{receiver.port}")  # fmt: skip

    assert len(shelf.mails) == 10
    assert len(shelf.mails[0].recipients) == 3


@pytest.mark.parametrize("options", [[], ["--pipeline"]], ids=["plain", "pipelined"])
def test_swaks(run: Run, options: list[str]) -> None:
    shelf = Shelf()
    with receiving(shelf) as receiver:
        run("swaks", "--server", "127.0.0.1", "--port", str(receiver.port), "--ehlo", "client.test",
            "--from", "reader@client.test", "--to", "you@example.com,they@example.net",
            *options)  # fmt: skip

    assert shelf.mails[0].recipients == ["you@example.com", "they@example.net"]
