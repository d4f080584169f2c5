"""The command that makes the first user."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from django.contrib.auth import authenticate, get_user_model
from django.core.management import call_command

pytestmark = pytest.mark.django_db

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def kept(settings, tmp_path) -> Path:
    settings.MAIL = {**settings.MAIL, "RUN_DIR": str(tmp_path / "run")}
    return tmp_path / "run" / "admin-password"


def test_admin_can_log_in_with_the_password_that_was_printed_and_kept(kept, capsys):
    call_command("makeadmin")

    password = kept.read_text().strip()
    assert f"password {password} " in capsys.readouterr().out
    user = authenticate(username="admin", password=password)
    assert user is not None
    assert user.is_superuser


def test_password_is_readable_by_its_owner_alone(kept):
    call_command("makeadmin")

    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_second_run_changes_and_prints_nothing(kept, capsys):
    call_command("makeadmin")
    password = kept.read_text()
    capsys.readouterr()

    call_command("makeadmin")

    assert capsys.readouterr().out == ""
    assert kept.read_text() == password
    assert get_user_model().objects.count() == 1


def test_new_database_gets_the_password_that_is_kept(kept):
    call_command("makeadmin")
    get_user_model().objects.all().delete()

    call_command("makeadmin")

    assert authenticate(username="admin", password=kept.read_text().strip())


def test_new_database_without_tables_is_named_in_one_line(tmp_path):
    program = subprocess.run(
        [sys.executable, ROOT / "manage.py", "makeadmin"],
        capture_output=True,
        timeout=60,
        env=os.environ | {"DATABASE_URL": f"sqlite:///{tmp_path}/new", "RUN_DIR": str(tmp_path)},
    )

    assert program.returncode == 1
    assert program.stderr.startswith(b"CommandError: The users cannot be read")
    assert program.stderr.count(b"\n") == 1
