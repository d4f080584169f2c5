"""What the commands say of settings that are wrong."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.any_database


def test_command_says_what_is_wrong_without_a_traceback(project):
    done = project(MAIL_RECEIVER="nowhere").manage("check")

    assert done.returncode == 1
    assert "mailapp.E001" in done.stderr
    assert "'nowhere' is not host:port" in done.stderr
    assert "Traceback" not in done.stderr


def test_long_running_process_does_not_start_with_a_fault(project):
    circle = {"MAIL_RECEIVER": "127.0.0.1:1", "MAIL_RELAY": "127.0.0.1:1"}

    done = project(**circle).manage("runmail", "--only", "receiver")

    assert done.returncode == 1
    assert "mailapp.E002" in done.stderr
    assert "Traceback" not in done.stderr
