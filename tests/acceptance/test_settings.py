"""What the settings of this project make of the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.project import ROOT


def check(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_run_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    checked = check(RUN_DIR=str(folder), DATABASE_URL="")

    assert checked.returncode == 0, checked.stderr
    assert folder.stat().st_mode & 0o777 == 0o700


def test_database_url_that_is_none_is_named(tmp_path: Path) -> None:
    checked = check(RUN_DIR=str(tmp_path), DATABASE_URL="nonsense")

    assert checked.returncode != 0
    assert "ImproperlyConfigured: DATABASE_URL: " in checked.stderr
