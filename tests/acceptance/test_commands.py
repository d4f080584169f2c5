"""Commands typed where they cannot work: each says so in one line, with a non-zero exit code."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from django.db import connection

from mailapp.maildir import Maildir
from tests.project import ROOT

#: Runs each of its arguments as a command line, all in one process.
TYPE_EACH = """
import sys
from django.core.management import ManagementUtility
from django.conf import settings
for line in sys.argv[1:]:
    settings.DEBUG = True
    try:
        ManagementUtility(["manage.py", *line.split()]).execute()
    except SystemExit as end:
        print(end.code)
"""
NOT_MIGRATED = "CommandError: The database is not up to date: run manage.py migrate first."


def test_database_that_is_not_migrated_is_one_line_of_each_command(project, tmp_path):
    installation = project()
    empty = {
        "sqlite": f"sqlite:///{tmp_path}/empty.sqlite3",
        "postgresql": f"{installation.database_url}?options=-csearch_path%3Dnowhere",
    }
    lines = [
        "cleanmail --dry-run",
        "deq incoming",
        f"deq {tmp_path} --watch",
        f"exportmail {tmp_path}/box",
        "importmail README.md",
        "mailqueue list incoming",
        "mailroutes",
        "restartmail",
        "runmail",
        "runmail --detach",
        "runworker",
    ]

    done = subprocess.run(
        [sys.executable, "-c", TYPE_EACH, *lines],
        cwd=ROOT,
        env=os.environ
        | installation.environment
        | {
            "DATABASE_URL": empty[connection.vendor],
            "DJANGO_SETTINGS_MODULE": "lamson_project.settings",
        },
        capture_output=True,
        text=True,
    )

    assert done.stderr.splitlines() == [NOT_MIGRATED] * len(lines)
    assert done.stdout.split() == ["1"] * len(lines)


@pytest.mark.any_database
@pytest.mark.parametrize("line", [["mailqueue", "keys", "{maildir}"], ["stopmail"]])
def test_reader_of_what_a_command_says_may_leave_before_its_end(project, tmp_path, line):
    maildir = Maildir(tmp_path / "posts", create=True)
    maildir.add(b"Subject: Hello\n\nHello.\n")
    ours, theirs = os.pipe()
    os.close(ours)

    done = subprocess.run(
        [sys.executable, "manage.py", *(word.format(maildir=maildir.path) for word in line)],
        cwd=ROOT,
        env=os.environ | project().environment,
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
    )

    os.close(theirs)
    assert (done.returncode, done.stderr) == (1, "")
