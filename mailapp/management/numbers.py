"""Numbers as options of commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def positive(number: type[int] | type[float]) -> Callable[[str], float]:
    """Return what reads a number above zero, for argparse."""

    def read(text: str) -> float:
        try:
            value = number(text)
        except ValueError:
            value = number(0)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number above zero")
        return value

    return read
