"""The command that prints the versions."""

from __future__ import annotations

import io
import json
import platform
from importlib.metadata import version

import pytest
from django.core.management import call_command
from django.db import connection

import mailapp
from mailapp.__main__ import main


def mailversion(*arguments: str) -> str:
    output = io.StringIO()
    call_command("mailversion", *arguments, stdout=output)
    return output.getvalue()


@pytest.mark.django_db
def test_versions_are_those_that_run():
    versions = json.loads(mailversion("--json"))

    name, _, number = versions.pop("database").partition(" ")
    assert name == connection.display_name
    assert number[0].isdigit()
    assert versions == {
        "lamson-django": mailapp.__version__,
        "Django": version("Django"),
        "Python": platform.python_version(),
        "aiosmtpd": version("aiosmtpd"),
    }


@pytest.mark.django_db
@pytest.mark.any_database
def test_each_is_on_a_line():
    lines = mailversion().splitlines()

    assert lines[0].split() == ["lamson-django", mailapp.__version__]
    assert len(lines) == 5


def test_version_of_the_package_is_that_of_the_code():
    assert version("lamson-django") == mailapp.__version__


def test_no_project_is_needed(capsys: pytest.CaptureFixture[str]):
    main(["mailversion"])

    assert f"Python         {platform.python_version()}" in capsys.readouterr().out
