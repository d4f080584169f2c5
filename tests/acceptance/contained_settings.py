"""Workers with little time and memory for each handler, and soon at the last try."""

from tests.acceptance.settings import *  # noqa: F403 - Django reads every name
from tests.acceptance.settings import MAIL

MAIL = {**MAIL, "HANDLER_SECONDS": 2.0, "WORKER_MEMORY": 512 << 20, "RETRY_SECONDS": [0.1, 0.1]}
