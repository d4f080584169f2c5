"""Deferred work: docs/deferred.md does what it says, and what a queue of one's own promises."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from mailapp.models import Delivery, Message, Queue, Status
from mailapp.routing import from_queue, route, route_like, stateless
from tests.snippets import snippets

pytestmark = pytest.mark.django_db

SEARCH = '''
"""What stands for a search engine."""

posts = []


def add(board, subject, text):
    posts.append((subject, text))


def find(word):
    return [subject for subject, text in posts if word in text]
'''


@pytest.fixture
def page() -> dict[str, str]:
    """The files that the page shows."""
    return {each.title: each.text for each in snippets("docs/deferred.md") if each.title}


@pytest.fixture
def board(
    tmp_path, monkeypatch, page, use_handlers, templates
) -> Iterator[Callable[[str], ModuleType]]:
    """The app of the page, with its handlers: `board("search")` is a module of it."""
    for name, text in {**page, "board/__init__.py": "", "board/search.py": SEARCH}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    templates(**{"board/thanks.msg": page["board/templates/board/thanks.msg"]})
    use_handlers(importlib.import_module("board.handlers"))
    yield lambda name: importlib.import_module(f"board.{name}")
    for name in [name for name in sys.modules if name.partition(".")[0] == "board"]:
        del sys.modules[name]


def test_test_of_the_page_passes(board, person):
    board("tests").test_post_can_be_found(person)


def test_post_is_answered_before_it_is_indexed(board, message, work):
    message(recipients=["cats@localhost"])

    work()

    assert Delivery.objects.filter(queue="outgoing").exists()
    assert board("search").posts == []
    assert Message.objects.filter(protocol="ESMTP").count() == 1

    assert work("index") == 1
    assert board("search").find("Hello") == ["Hello"]
    assert work("index") == work() == 0


def test_what_nobody_takes_from_a_queue_is_held_and_says_which(handle, delivery, work):
    @route("(anything)@(host)", anything=".+")
    def START(message, anything, host): ...

    handle(START)
    Queue.objects.create(name="idnex")
    lost = delivery("cats@localhost", queue="idnex")

    work("idnex")

    lost.refresh_from_db()
    assert (lost.status, lost.held_from_id) == (Status.HELD, "idnex")
    assert lost.reply.endswith("cats@localhost from reader@client.test, in queue idnex")


def test_handler_that_fails_puts_nothing_into_the_queue(handle, message, work):
    @route("(anything)@(host)", anything=".+")
    def START(message, anything, host):
        message.to_queue("index")
        raise LookupError

    @from_queue("index")
    @stateless
    @route_like(START)
    def INDEX(message, anything, host): ...

    handle(START, INDEX)
    message(recipients=["cats@localhost"])

    work()

    assert not Delivery.objects.filter(queue="index").exists()
