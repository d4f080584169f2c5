"""The first smart host that is well gets the mail, and one in trouble is left alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mailapp.endpoints import Upstream, upstream
from mailapp.errors import NoUpstream
from mailapp.relay.upstreams import Upstreams
from tests.waiting import DEADLINE

FIRST, SECOND = upstream("smtp://one.test"), upstream("smtp://two.test")
LONG, OVER = 1000.0, 1e-9  # seconds of rest


class Doors:
    """Opens what is not closed, and counts who came."""

    def __init__(self) -> None:
        self.closed: set[Upstream] = set()
        self.knocks: list[Upstream] = []

    def of(self, upstream: Upstream) -> Callable[[], Any]:
        def knock() -> Upstream:
            self.knocks.append(upstream)
            if upstream in self.closed:
                raise NoUpstream(str(upstream))
            return upstream

        return knock


@pytest.fixture
def doors() -> Doors:
    return Doors()


def upstreams(doors: Doors, *steps: float) -> Upstreams:
    return Upstreams({each: doors.of(each) for each in (FIRST, SECOND)}, steps)


def test_first_is_chosen_while_it_is_well(doors):
    both = upstreams(doors, LONG)

    assert both.connect() == (FIRST, FIRST)
    assert both.is_choice(FIRST)
    assert not both.is_choice(SECOND)


def test_one_in_trouble_is_not_tried_again_while_it_rests(doors):
    doors.closed = {FIRST}
    both = upstreams(doors, LONG)

    for _ in range(3):
        assert both.connect() == (SECOND, SECOND)

    assert doors.knocks == [FIRST, SECOND, SECOND, SECOND]
    assert both.is_choice(SECOND)
    assert both.remaining == 0


def test_rest_of_all_lasts_until_the_first_of_them_may_be_tried(doors):
    doors.closed = {FIRST, SECOND}
    both = upstreams(doors, LONG)

    with pytest.raises(NoUpstream):
        both.connect()

    assert LONG - DEADLINE < both.remaining <= LONG


def test_first_is_tried_again_after_its_rest_and_rests_longer_when_it_fails_again(doors):
    doors.closed = {FIRST}
    both = upstreams(doors, OVER, LONG)

    for _ in range(3):
        both.connect()

    assert doors.knocks == [FIRST, SECOND, FIRST, SECOND, SECOND]


def test_others_need_not_wait_for_the_first_mail_to_one_that_lets_us_in_again(doors):
    both = upstreams(doors, OVER, LONG)
    both.leave_alone(FIRST, NoUpstream())

    assert both.connect() == (FIRST, FIRST)

    assert not both.is_choice(SECOND)
    both.leave_alone(FIRST, NoUpstream())  # it broke off in the middle of the mail
    assert both.is_choice(SECOND)


def test_rest_is_short_again_once_all_is_well(doors):
    both = upstreams(doors, OVER, LONG)
    for _ in range(3):
        both.leave_alone(FIRST, NoUpstream())
        both.note_well(FIRST)

    assert both.is_choice(FIRST)
    assert both.connect() == (FIRST, FIRST)


def test_one_thread_alone_finds_out_whether_the_first_is_well_again():
    asked, answer = threading.Event(), threading.Event()

    def slowly() -> Any:
        asked.set()
        assert answer.wait(DEADLINE)
        return FIRST

    both = Upstreams({FIRST: slowly, SECOND: lambda: SECOND}, [OVER, LONG])
    both.leave_alone(FIRST, NoUpstream())
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(both.connect)
        assert asked.wait(DEADLINE)

        assert both.connect() == (SECOND, SECOND)

        answer.set()
        assert waiting.result(DEADLINE) == (FIRST, FIRST)
