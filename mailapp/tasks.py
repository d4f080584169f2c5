"""Where Celery and procrastinate look for the tasks of an app: those of the engine in use."""

from importlib import import_module

from mailapp.conf import mail_settings

import_module(f"mailapp.engines.{mail_settings().ENGINE}")
