"""A receiver that speaks LMTP, too: `MAIL_LMTP` says where."""

import os

from tests.acceptance.settings import *  # noqa: F403 - Django reads every name
from tests.acceptance.settings import MAIL

MAIL = {**MAIL, "LMTP": os.environ["MAIL_LMTP"]}
