"""What the tests have in common: factories of rows, real threads, and whole projects."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import postgres
from tests.modules import make_module
from tests.waiting import DEADLINE

if TYPE_CHECKING:
    from pytest_django import DjangoDbBlocker
    from pytest_django.fixtures import SettingsWrapper

    from mailapp.models import Delivery, Message, Process
    from tests.project import Databases, Project

RAW = b"From: reader@client.test\r\nTo: you@example.com\r\nSubject: Hello\r\n\r\nHello you.\r\n"


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder of our own; the name of pytest's is too long for the Unix sockets in it."""
    with tempfile.TemporaryDirectory(prefix="mail-") as name:
        yield Path(name)


@pytest.fixture
def outbox_backend(settings: SettingsWrapper) -> None:
    """Have Django's mail go to the outbox, not where its test runner sends it."""
    from mailapp.testing.post import outbox_settings

    for name, value in outbox_settings().items():
        setattr(settings, name, value)


@pytest.fixture
def process(db: None) -> Callable[..., Process]:
    """Register a running process: `process("worker", "incoming")`."""
    from mailapp.models import Process

    def make(kind: str = Process.Kind.WORKER, queue: str = "incoming") -> Process:
        return Process.objects.start(kind, queue)

    return make


@pytest.fixture
def message(db: None) -> Callable[..., Message]:
    """Store a mail as the receiver does: `message(sender="", recipients=["a@b", "c@d"])`."""
    from mailapp.models import Message, NewMail

    def make(**fields: Any) -> Message:
        defaults = {
            "raw": RAW,
            "sender": "reader@client.test",
            "recipients": ["you@example.com"],
            "protocol": "ESMTP",
        }
        [key] = Message.objects.store([NewMail(**(defaults | fields))])
        return Message.objects.get(pk=key)

    return make


@pytest.fixture
def delivery(message: Callable[..., Message]) -> Callable[..., Delivery]:
    """Store a mail for one recipient and return its delivery: `delivery(queue="outgoing")`."""

    def make(recipient: str = "you@example.com", **fields: Any) -> Delivery:
        return message(recipients=[recipient], **fields).deliveries.get()

    return make


@pytest.fixture
def templates(settings: SettingsWrapper) -> Callable[..., None]:
    """Have these templates and no others: `templates(**{"mail/confirm.msg": "..."})`."""

    def use(**texts: str) -> None:
        loader = ("django.template.loaders.locmem.Loader", texts)
        settings.TEMPLATES = [
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "OPTIONS": {"loaders": [loader]},
            }
        ]

    return use


@pytest.fixture
def handle(
    use_handlers: Callable[..., None], monkeypatch: pytest.MonkeyPatch, outbox_backend: None
) -> Callable[..., None]:
    """Route all mail to modules made of functions: `handle(START, CONFIRMING)`, or by name.

    `handle(news=[START, CONFIRMING], log=[LOG])` makes two modules, asked in that order.
    """
    from mailapp.models import Handler

    def use(*functions: Callable[..., Any], **modules: Sequence[Callable[..., Any]]) -> None:
        named = {"news": functions} if functions else modules
        made = [make_module(monkeypatch, name, *states) for name, states in named.items()]
        use_handlers(*made)
        for order, name in enumerate(named):
            Handler.objects.filter(module=name).update(order=order)

    return use


@pytest.fixture
def work(process: Callable[..., Process]) -> Callable[..., int]:
    """Work what is due, as a worker of its own does, and return how many mails that were."""
    from mailapp import worker
    from mailapp.lifecycle import Life

    def drain(queue: str = "incoming") -> int:
        return worker.drain(queue, Life(process(queue=queue)))

    return drain


@pytest.fixture
def together() -> Callable[..., list[Any]]:
    """Call functions at the same instant, each in a thread with a connection of its own."""
    from django.db import connections

    def run(*functions: Callable[[], Any]) -> list[Any]:
        start = threading.Barrier(len(functions))

        def call(function: Callable[[], Any]) -> Any:
            try:
                start.wait(DEADLINE)
                return function()
            finally:
                connections.close_all()

        with ThreadPoolExecutor(len(functions)) as pool:
            return list(pool.map(call, functions, timeout=2 * DEADLINE))

    return run


@pytest.fixture(scope="session")
def project_databases(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Databases]:
    from tests.project import Databases

    on_postgres = request.config.getoption("database") == "postgresql"
    server = os.environ[postgres.VARIABLE] if on_postgres else ""
    with contextlib.closing(Databases(tmp_path_factory.mktemp("projects"), server)) as databases:
        yield databases


@pytest.fixture
def project(
    project_databases: Databases, django_db_blocker: DjangoDbBlocker
) -> Iterator[Callable[..., Project]]:
    """Make an installation of its own: `project(MAIL_HOSTS="example.com")`.

    What it started is ended with the test, which fails if any of it printed a traceback.
    """
    with _projects(project_databases, django_db_blocker) as make:
        yield make


@pytest.fixture(scope="module")
def shared_project(
    project_databases: Databases, django_db_blocker: DjangoDbBlocker
) -> Iterator[Callable[..., Project]]:
    """As `project`, for all tests of a module, each of which leaves it as good as it was."""
    with _projects(project_databases, django_db_blocker) as make:
        yield make


@contextlib.contextmanager
def _projects(databases: Databases, blocker: DjangoDbBlocker) -> Iterator[Callable[..., Project]]:
    from tests.project import projects

    with blocker.unblock(), projects(databases) as make:
        yield make
