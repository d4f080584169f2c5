"""Tests that try whatever hypothesis thinks of, for as long as `--fuzz-seconds` gives them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

SHARE = 7.0  #: seconds for each of these tests, about a minute for all
ROUND = 200  #: examples, between which the time is looked at

# For all tests of hypothesis: that a machine is busy is no fault of what they try.
settings.register_profile("untimed", settings(), deadline=None)
settings.load_profile("untimed")

_settings = settings(
    max_examples=ROUND,
    derandomize=False,  # else each round tries the same, where CI is set
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def fuzzed(test: Callable[..., None]) -> Callable[..., None]:
    """Have a test tried anew, with other examples, until its share of the time is over."""
    marked: Callable[..., None] = pytest.mark.fuzz(_settings(test))
    return marked


def share(config: pytest.Config, items: list[pytest.Item]) -> float:
    """The seconds for one of these tests: `--fuzz-seconds` is for all that run together."""
    seconds: float | None = config.getoption("fuzz_seconds")
    if seconds is None:
        return SHARE
    return seconds / sum(1 for item in items if item.get_closest_marker("fuzz"))


def run(item: pytest.Function, seconds: float) -> None:
    """Call a test round after round; at least one."""
    arguments: dict[str, Any] = {name: item.funcargs[name] for name in item._fixtureinfo.argnames}
    end = time.monotonic() + seconds
    while True:
        item.obj(**arguments)
        if time.monotonic() >= end:
            return
