"""Measures how fast it is; see docs/performance.md."""

import os

if os.environ.get("MAIL_ENGINE") == "celery":
    from .celery import app  # noqa: F401 - as Celery's guide for Django has it
