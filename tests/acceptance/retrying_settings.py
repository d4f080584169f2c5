"""Workers that soon try again."""

from tests.acceptance.settings import *  # noqa: F403 - Django reads every name
from tests.acceptance.settings import MAIL

MAIL = {**MAIL, "POLL_SECONDS": 0.1, "RETRY_SECONDS": [0.05] * 5}
