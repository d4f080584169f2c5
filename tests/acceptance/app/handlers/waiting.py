"""Waits until somebody opens the gate, a named pipe in the run folder, and says who waits."""

from __future__ import annotations

import os
from pathlib import Path

from mailapp.conf import mail_settings
from mailapp.request import MailRequest
from mailapp.routing import non_atomic, route


@non_atomic
@route("mail-wait@(host)")
def START(message: MailRequest, host: str):
    stand_at_gate()
    message.respond("acceptance/counted.msg", count=1)
    return WAITED


@route("mail-wait@(host)")
def WAITED(message: MailRequest, host: str) -> None:
    pass


def stand_at_gate() -> None:
    """Return when it is opened."""
    folder = Path(mail_settings().RUN_DIR)
    (folder / f"waits.{os.getpid()}").touch()
    (folder / "gate").read_bytes()
