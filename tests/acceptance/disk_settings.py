"""A receiver that takes mail as long as so many octets are free: `MAIL_MIN_FREE_SPACE`."""

import os

from tests.acceptance.settings import *  # noqa: F403 - Django reads every name
from tests.acceptance.settings import MAIL

MAIL = {**MAIL, "MIN_FREE_SPACE": int(os.environ["MAIL_MIN_FREE_SPACE"])}
