"""Handlers that belong to a test, not to an app."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType

from mailapp import registry


@contextlib.contextmanager
def handlers(*modules: ModuleType) -> Iterator[None]:
    """Route all mail within the block to these modules alone, such as the test's own.

    Each is a module as in an app's `handlers`. The rows of the others are kept.
    """
    with registry.instead(*modules):
        registry.sync()
        yield
    registry.sync()
