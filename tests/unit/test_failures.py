"""When what failed is tried again."""

from __future__ import annotations

import pytest

from mailapp import failures


@pytest.fixture(autouse=True)
def waits(settings) -> None:
    settings.MAIL = {**settings.MAIL, "RETRY_SECONDS": [60.0, 600.0]}


@pytest.mark.parametrize(("tries", "seconds"), [(1, 60.0), (2, 600.0)])
def test_pause_is_that_of_the_setting_within_a_tenth(tries, seconds):
    assert seconds * 0.9 <= failures.pause(tries) <= seconds * 1.1


def test_failures_do_not_march_in_step():
    pauses = {failures.pause(1) for _ in range(20)}

    assert len(pauses) > 1
