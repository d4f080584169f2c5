"""Which changes there are, and when they matter."""

from __future__ import annotations

import importlib
import threading
import time
from pathlib import Path

import pytest

from mailapp import autoreload
from mailapp.autoreload import changes
from tests.waiting import DEADLINE

OLD, NEW = Path("old.py"), Path("new.py")


@pytest.mark.parametrize(
    ("before", "now", "changed"),
    [
        ({OLD: 1.0}, {OLD: 1.0}, set()),
        ({OLD: 1.0}, {OLD: 3.0}, {OLD}),
        ({OLD: 1.0}, {OLD: 0.5}, {OLD}),  # another branch was checked out
        ({OLD: 1.0}, {}, {OLD}),
        ({}, {NEW: 2.5}, {NEW}),
        ({}, {OLD: 1.0}, set()),  # a module that was imported only now
    ],
)
def test_change_of_files_is_noticed(before, now, changed):
    assert changes(before, now, looked_at=2.0) == changed


def test_code_is_loaded_anew_in_development_alone(settings):
    settings.DEBUG = True
    settings.MAIL = {**settings.MAIL, "RELOAD": True}
    assert autoreload.is_wanted()

    settings.DEBUG = False
    assert not autoreload.is_wanted()


@pytest.mark.parametrize("changes", [{"RELOAD": False}, {"ENGINE": "celery"}])
def test_code_is_not_loaded_anew_by_others_workers_or_when_it_is_switched_off(settings, changes):
    settings.DEBUG = True
    settings.MAIL = {**settings.MAIL, **changes}

    assert not autoreload.is_wanted()


def test_change_while_all_of_it_starts_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "lamson_project.settings")
    monkeypatch.syspath_prepend(tmp_path)
    began = time.time() - 1  # the clock of files is not as fine
    (tmp_path / "written_late.py").write_text("")
    importlib.import_module("written_late")
    noticed = threading.Event()

    with autoreload.watching(noticed.set, since=began):
        assert noticed.wait(DEADLINE)
