"""The settings of the project with the handlers of the benchmarks in place of the examples."""

from lamson_project.settings import *  # noqa: F403
from lamson_project.settings import INSTALLED_APPS as PROJECT_APPS

DEBUG = False  # with it Django keeps every query
INSTALLED_APPS = [
    "benchmarks",
    *(app for app in PROJECT_APPS if not app.startswith("examples.")),
]
