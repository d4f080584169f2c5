"""Which changes there are, and when they matter."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailapp import autoreload
from mailapp.autoreload import changes

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
