"""A project whose handlers are called by the engine that `MAIL_ENGINE` names."""

import os

if os.environ.get("MAIL_ENGINE") == "celery":
    from .celery import app  # noqa: F401 - as Celery's guide for Django has it
