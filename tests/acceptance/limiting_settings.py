"""The tests' application with the limits to answers that every installation has."""

from tests.acceptance.settings import *  # noqa: F403 - Django reads every name
from tests.acceptance.settings import MAIL as TEST_MAIL

MAIL = {key: value for key, value in TEST_MAIL.items() if not key.startswith("ANSWERS")}
