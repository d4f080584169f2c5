"""The gate at which functions of the test application wait until a test lets them through."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.project import Project


def open_gate(project: Project) -> None:
    """Let a function through, as soon as one stands there."""
    wait_until(lambda: _opens(project.folder / "gate"))


def _opens(gate: Path) -> bool:
    with contextlib.suppress(OSError):  # nobody has it open for reading
        os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
        return True
    return False
