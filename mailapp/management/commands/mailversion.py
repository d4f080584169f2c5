"""Print the versions of the framework and of what it stands on."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import django
from django.conf import settings
from django.db import OperationalError, connection

import mailapp
from mailapp.management.examples import ExampleCommand
from mailapp.mime import one_line


class Command(ExampleCommand):
    help = """
    Print the versions of the framework, Django, Python, aiosmtpd and the database, as a report of a
    fault needs them.

    Example: manage.py mailversion
    """
    requires_system_checks = ()

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="for programs")

    def handle(self, *args: Any, **options: Any) -> None:
        versions = dict(_versions())
        if options["json"]:
            self.stdout.write(json.dumps(versions, indent=2))
            return
        width = max(map(len, versions))
        for name, number in versions.items():
            self.stdout.write(f"{name:<{width}}  {number}")


def _versions() -> Iterator[tuple[str, str]]:
    yield "lamson-django", mailapp.__version__
    yield "Django", django.get_version()
    yield "Python", platform.python_version()
    yield "aiosmtpd", version("aiosmtpd")
    if settings.configured:  # there is a project
        yield "database", f"{connection.display_name} {_of_database()}"


def _of_database() -> str:
    try:
        return ".".join(map(str, connection.get_database_version()))
    except OperationalError as error:
        return f"(does not answer: {one_line(str(error))})"
