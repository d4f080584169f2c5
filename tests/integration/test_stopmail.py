"""What `stopmail` and its like say where nothing runs."""

from __future__ import annotations

import pytest
from django.core.management import call_command

pytestmark = pytest.mark.any_database


@pytest.fixture
def run_dir(settings, tmp_path):
    settings.MAIL = {**settings.MAIL, "RUN_DIR": str(tmp_path / "run")}
    return tmp_path / "run"


def test_folder_without_a_pid_file_is_said_so(manage, tmp_path):
    assert manage("stopmail", "--all", tmp_path) == (
        f"Nothing runs there: {tmp_path} has no pid file.",
        "",
    )


def test_folder_that_is_not_there_is_one_line(manage, tmp_path):
    assert manage("stopmail", "--all", tmp_path / "run") == (
        "",
        f"{tmp_path}/run: No such file or directory",
    )


@pytest.mark.django_db
def test_file_that_a_killed_process_left_stands_for_nobody(manage, run_dir, capsys):
    run_dir.mkdir()
    (run_dir / "runworker.pid").write_text("1\n")
    (run_dir / "runworker.command").write_text('["runworker"]')

    assert manage("stopmail") == (
        f"Nothing runs here: there is no {run_dir}/runmail.pid.",
        "",
    )
    assert manage("restartmail", "runworker") == ("", "runworker does not run here.")
    with pytest.raises(SystemExit, match="3"):
        call_command("mailstatus")
    assert f"process 1, which {run_dir}/runworker.pid names, was killed." in capsys.readouterr().out
