"""What `runmail` says of the handlers once all its parts are ready."""

from __future__ import annotations

import pytest

from mailapp.management.banner import banner
from mailapp.routing import from_queue, route, route_like, stateless

pytestmark = pytest.mark.django_db


@route("news@(host)")
def START(message, host): ...


@from_queue("index")
@stateless
@route_like(START)
def INDEX(message, host): ...


def test_other_doors_of_the_receiver_are_named(settings):
    settings.MAIL = {**settings.MAIL, "LMTP": "127.0.0.1:8824", "SUBMISSION": "127.0.0.1:5870"}

    said = list(banner({"receiver": "127.0.0.1:8823"}, "Ctrl-C ends everything."))

    assert said[1] == "Besides   LMTP 127.0.0.1:8824, SUBMISSION 127.0.0.1:5870"


def test_function_of_another_queue_is_not_taken_for_one_that_what_comes_in_goes_to(handle):
    handle(START, INDEX)

    said = list(banner({"receiver": "127.0.0.1:8823"}, "Ctrl-C ends everything."))

    at = said.index("  news")
    assert said[at + 1].split(maxsplit=1) == ["news@(host)", "START, INDEX (of the queue index)"]
    assert said[-1] == "Ctrl-C ends everything."
