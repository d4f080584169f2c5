"""Workers with little time, `MAIL_HANDLER_SECONDS`, and memory, and soon at the last try."""

import os

from tests.acceptance.settings import *  # noqa: F403 - Django reads every name
from tests.acceptance.settings import MAIL

MAIL = {
    **MAIL,
    "HANDLER_SECONDS": float(os.environ["MAIL_HANDLER_SECONDS"]),
    "WORKER_MEMORY": 512 << 20,
    "DRAIN_SECONDS": 1.0,
    "RETRY_SECONDS": [0.1, 0.1],
}
