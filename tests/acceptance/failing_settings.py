"""Processes in which each commit, fsync, rename and removal fails once: `MAIL_FAILURE` says how."""

import os
from pathlib import Path

from tests import failpoints
from tests.acceptance.settings import *  # noqa: F403 - Django reads every name
from tests.acceptance.settings import LOGGING, MAIL

MAIL = {
    **MAIL,
    "HEARTBEAT_SECONDS": 0.5,
    "POLL_SECONDS": 0.1,
    "RETRY_SECONDS": [0.1] * 20,
    "RELAY_RETRY_SECONDS": [0.1],
    "RELAY_REST_SECONDS": [0.1],
}

LOGGING = {
    **LOGGING,
    "formatters": {
        name: {**formatter, "()": "tests.failpoints.Formatter"}
        for name, formatter in LOGGING["formatters"].items()
    },
}

failpoints.install(
    failpoints.Failpoints(Path(MAIL["RUN_DIR"], "failpoints")),
    failpoints.FAILURES[os.environ["MAIL_FAILURE"]],
)
