"""What docs/engines.md asks for, with processes that soon take each other for dead."""

import os

import django

from tests.acceptance.impatient_settings import *  # noqa: F403 - Django reads every name
from tests.acceptance.impatient_settings import INSTALLED_APPS, LOGGING, MAIL

MAIL = {**MAIL, "ENGINE": os.environ["MAIL_ENGINE"], "WORKERS": 1, "POLL_SECONDS": 0.5}

CELERY_BROKER_URL = os.environ.get("MAIL_BROKER")
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}

INSTALLED_APPS = [
    *INSTALLED_APPS,
    *{
        "local": [],
        "celery": [],
        "procrastinate": ["procrastinate.contrib.django"],
        "tasks": ["django_tasks_db", *(["django_tasks"] if django.VERSION < (6, 0) else [])],
    }[MAIL["ENGINE"]],
]

# Each task that a worker begins is a line.
LOGGING["loggers"] |= {
    "procrastinate": {"level": "INFO"},
    "django.tasks": {"level": "INFO"},
    "django_tasks": {"level": "INFO"},
}
