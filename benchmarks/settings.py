"""The settings of the project with the handlers of the benchmarks in place of the examples."""

import os

from lamson_project.settings import *  # noqa: F403
from lamson_project.settings import INSTALLED_APPS as PROJECT_APPS
from lamson_project.settings import MAIL as PROJECT_MAIL

DEBUG = False  # with it Django keeps every query
INSTALLED_APPS = [
    "benchmarks",
    *(app for app in PROJECT_APPS if not app.startswith("examples.")),
]
MAIL = {
    **PROJECT_MAIL,
    "RECEIVER_PROCESSES": int(os.environ.get("MAIL_RECEIVER_PROCESSES", "1")),
    "ENGINE": os.environ.get("MAIL_ENGINE", "local"),
}
CELERY_BROKER_URL = os.environ.get("MAIL_BROKER")
