"""Installs Salmon into a folder that is gone afterwards, and runs an app on it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Program, running

PACKAGES = ["salmon-mail==3.3.0", "jinja2"]


class NoSalmon(Exception):
    """Salmon cannot be installed here."""


@contextlib.contextmanager
def running_salmon(relay: str) -> Iterator[Program]:
    """Run the app until the block ends; raise NoSalmon where it cannot be had."""
    with tempfile.TemporaryDirectory(prefix="mail-bench-") as name:
        _install(name)
        program = ("-m", "benchmarks.salmon_app", relay)
        with running(*program, folder=Path(name), environment={"PYTHONPATH": name}) as salmon:
            yield salmon


def _install(folder: str) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    done = subprocess.run(
        [*pip, "--target", folder, *PACKAGES], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise NoSalmon(done.stderr.strip().splitlines()[-1])
