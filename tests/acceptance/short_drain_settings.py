"""Processes that have a second to finish when they are asked to end."""

from tests.acceptance.settings import *  # noqa: F403 - Django reads every name
from tests.acceptance.settings import MAIL

MAIL = {**MAIL, "DRAIN_SECONDS": 1.0}
