"""The project's own settings, and an application for the tests of the whole program."""

from lamson_project.settings import *  # noqa: F403 - Django reads every name
from lamson_project.settings import DATABASES, INSTALLED_APPS, MAIL

INSTALLED_APPS = [*INSTALLED_APPS, "tests.acceptance.app"]

MAIL = {
    **MAIL,
    "INLINE_SIZE": 16 * 1024,  # so that real mails, too, are kept as files
    "ANSWERS_AN_HOUR": 0,  # a few people write hundreds of mails
    "ANSWERS_A_DAY": 0,
    "WORKERS": 1 if DATABASES["default"]["ENGINE"].endswith("sqlite3") else 2,
}
