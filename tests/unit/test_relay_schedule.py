"""When the relay tries again and when it gives up, by a clock that the test turns."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest

from mailapp.models import Delivery
from mailapp.relay import schedule

BORN = datetime(2026, 1, 1, tzinfo=UTC)
MINUTES = [1, 2, 5, 10, 20, 40, 60]
DAYS = 5


def tries_until_given_up(delivery: Delivery) -> list[timedelta]:
    """Fail every try, and return how long each came after the one before."""
    now, gaps = BORN, []
    while True:
        delivery.attempts += 1
        if schedule.is_expired(delivery, now):
            return gaps
        gaps.append(timedelta(seconds=schedule.delay(delivery, now)))
        now += gaps[-1]


@pytest.mark.parametrize("born", [BORN, BORN - timedelta(days=3)])
def test_waits_grow_to_an_hour_and_the_last_ends_after_five_days(born):
    gaps = tries_until_given_up(Delivery(created_at=born))

    for gap, minutes in zip(gaps[:-1], [*MINUTES, *[60] * len(gaps)], strict=False):
        assert minutes <= gap.total_seconds() / 60 <= minutes * 1.1
    assert BORN + sum(gaps, timedelta()) == born + timedelta(days=DAYS)
    assert len(gaps) >= (born + timedelta(days=DAYS) - BORN) / timedelta(hours=1.1)


def test_waits_are_those_of_the_settings(settings):
    settings.MAIL = {
        **settings.MAIL,
        "RELAY_RETRY_SECONDS": [7, 8],
        "RELAY_GIVE_UP_SECONDS": 60,
    }

    gaps = [gap.total_seconds() for gap in tries_until_given_up(Delivery(created_at=BORN))]

    for gap, wait in zip(gaps[:-1], [7, *[8] * len(gaps)], strict=False):
        assert wait <= gap <= wait * 1.1
    assert sum(gaps) == pytest.approx(60)


def test_waits_begin_again_when_an_operator_asks_to_retry():
    delivery = Delivery(created_at=BORN, attempts=8, attempts_before=7)

    assert schedule.delay(delivery, BORN) <= 60 * MINUTES[0] * 1.1


def test_failures_do_not_march_in_step():
    delays = {schedule.delay(Delivery(created_at=BORN, attempts=1), BORN) for _ in range(20)}

    assert len(delays) > 1


def test_rest_grows_with_each_trouble_and_starts_again_when_all_is_well():
    rest = schedule.Rest([1000, 5000])

    grown = []
    for _ in range(3):
        rest.begin()
        grown.append(math.ceil(rest.remaining))
    rest.end()

    assert grown == [1000, 5000, 5000]
    assert rest.remaining == 0
    rest.begin()
    assert math.ceil(rest.remaining) == 1000


def test_rest_is_over_when_its_time_has_passed():
    rest = schedule.Rest([1e-9])

    rest.begin()

    assert rest.remaining == 0
    assert rest.was_needed


@pytest.mark.parametrize(("seconds", "late"), [(0, False), (599, True), (600, True), (601, False)])
def test_mail_is_late_from_the_age_that_the_setting_says(settings, seconds, late):
    settings.MAIL = {**settings.MAIL, "DELAY_NOTICE_SECONDS": seconds}
    delivery = Delivery(created_at=BORN)

    assert schedule.is_late(delivery, BORN + timedelta(seconds=600)) is late
