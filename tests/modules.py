"""Handler modules that a test makes of functions, as if each were a file of an app."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


def make_module(
    monkeypatch: pytest.MonkeyPatch, name: str, *functions: Callable[..., Any], **names: Any
) -> ModuleType:
    """Put functions and other names into a module that can be imported until the test ends."""
    module = ModuleType(name)
    for function in functions:
        function.__module__ = name
        setattr(module, function.__name__, function)
    vars(module).update(names)
    monkeypatch.setitem(sys.modules, name, module)
    return module
