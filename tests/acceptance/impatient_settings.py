"""Processes that soon take each other for dead."""

from tests.acceptance.settings import *  # noqa: F403 - Django reads every name
from tests.acceptance.settings import MAIL

MAIL = {**MAIL, "HEARTBEAT_SECONDS": 0.1, "DEAD_AFTER_SECONDS": 1.0, "POLL_SECONDS": 0.1}
