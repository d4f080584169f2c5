"""Fixtures for pytest. Django's parts are imported when a test first needs them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .person import Person
    from .post import InProcess, Post
    from .smtp import OverSmtp


@pytest.fixture
def mail_in_process(db: None) -> InProcess:
    """The way of mail without a network."""
    from .post import InProcess

    return InProcess()


@pytest.fixture
def mail_over_smtp(transactional_db: None) -> Iterator[OverSmtp]:
    """The way of mail over real sockets."""
    from .smtp import OverSmtp

    with OverSmtp() as post:
        yield post


@pytest.fixture
def mail(mail_in_process: InProcess) -> Post:
    """The way that mail takes in a test; override it for another one."""
    return mail_in_process


@pytest.fixture
def person(mail: Post) -> Callable[[str], Person]:
    """Somebody who writes and expects: `person("reader@client.test")`, the same each time."""
    from .person import Person

    known: dict[str, Person] = {}

    def make(address: str) -> Person:
        return known.setdefault(address, Person(address, mail))

    return make


@pytest.fixture
def use_handlers(db: None) -> Iterator[Callable[..., None]]:
    """Route mail to modules of the test's own: `use_handlers(sys.modules[__name__])`."""
    from .handlers import handlers

    with contextlib.ExitStack() as stack:

        def use(*modules: ModuleType) -> None:
            stack.enter_context(handlers(*modules))

        yield use
