"""Handler modules, their rows, and the router that they make."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from django.core.management import call_command

from mailapp import registry
from mailapp.errors import BadRoute
from mailapp.models import Handler, Queue
from mailapp.routing import from_queue, route

pytestmark = pytest.mark.django_db


def state():
    @route("news@(host)")
    def START(message, host): ...

    return START


def taker(queue: str = "incoming") -> str:
    """Name the module that takes news@localhost."""
    [match, *_] = registry.current_router(max_age=0, queue=queue).matches("news@localhost")
    return match.handler.name


def test_queues_are_there_after_migrate():
    assert set(Queue.objects.values_list("name", "purpose")) >= {
        ("incoming", "handlers"),
        ("outgoing", "relay"),
        ("undeliverable", "held"),
    }


def test_new_module_gets_a_row_as_it_says(use_handlers, monkeypatch):
    from tests.modules import make_module

    module = make_module(
        monkeypatch, "shop", state(), __doc__="Sells.", default_order=7, default_enabled=False
    )

    use_handlers(module)

    row = Handler.objects.get(module="shop")
    assert (row.order, row.enabled, row.found, row.description) == (7, False, True, "Sells.")


def test_choice_of_the_operator_outlives_a_restart(handle):
    handle(shop=[state()])
    Handler.objects.filter(module="shop").update(order=3, enabled=False)

    registry.sync()

    row = Handler.objects.get(module="shop")
    assert (row.order, row.enabled) == (3, False)


def test_row_of_a_module_that_is_gone_is_kept_and_marked(handle):
    handle(shop=[state()])
    handle(news=[state()])

    assert not Handler.objects.get(module="shop").found
    assert Handler.objects.get(module="news").found

    handle(shop=[state()])
    assert Handler.objects.get(module="shop").found


def test_second_sync_makes_no_second_row(handle):
    handle(shop=[state()])

    registry.sync()

    assert Handler.objects.filter(module="shop").count() == 1


def test_handlers_are_asked_in_the_order_of_their_rows(handle):
    handle(first=[state()], second=[state()])
    assert taker() == "first"

    Handler.objects.filter(module="second").update(order=-1)

    assert taker() == "second"


def test_handler_that_is_off_takes_nothing(handle):
    handle(first=[state()], second=[state()])

    Handler.objects.filter(module="first").update(enabled=False)

    assert taker() == "second"


def test_router_is_the_same_while_nothing_changes(handle, django_assert_num_queries):
    handle(first=[state()])
    router = registry.current_router(max_age=0)

    with django_assert_num_queries(1):
        assert registry.current_router(max_age=0) is router
    with django_assert_num_queries(0):
        assert registry.current_router(max_age=3600) is router


def test_queues_have_a_router_each_and_a_row(handle):
    @from_queue("index")
    @route("news@(host)")
    def INDEX(message, host): ...

    handle(first=[state()], second=[INDEX])

    assert Queue.objects.get(name="index").purpose == Queue.Purpose.HANDLERS
    assert taker() == "first"
    assert taker("index") == "second"


def test_process_may_be_limited_to_some_handlers_for_mail_of_any_queue(handle):
    @from_queue("index")
    @route("news@(host)")
    def INDEX(message, host): ...

    handle(first=[state()], second=[state()], third=[INDEX])

    with registry.limited_to({"second"}):
        assert taker() == taker("of-its-own") == "second"
    with registry.limited_to({"third"}):
        assert taker("index") == "third"
        assert not registry.current_router(max_age=0).accepts("news@localhost")
    assert taker() == "first"


def test_router_follows_the_settings(handle, settings):
    handle(first=[state()])
    assert not registry.current_router(max_age=0).accepts("news@example.com")

    settings.MAIL = {**settings.MAIL, "HOSTS": ["example.com"]}

    assert registry.current_router(max_age=0).accepts("news@example.com")


def test_bad_route_is_said_even_of_a_handler_that_is_off(handle):
    @route("(unknown)@(host)")
    def START(message, unknown, host): ...

    handle(first=[state()])
    Handler.objects.create(module="broken", enabled=False)
    handle(first=[state()], broken=[START])

    with pytest.raises(BadRoute, match=r"broken\.START"):
        registry.current_router(max_age=0)


@pytest.mark.django_db(transaction=True)
def test_two_that_start_at_once_make_each_row_once(handle, together):
    handle(shop=[state()])
    Handler.objects.all().delete()

    together(registry.sync, registry.sync)

    assert Handler.objects.filter(module="shop").count() == 1


@pytest.fixture
def installed(tmp_path, settings, monkeypatch):
    """Install an app with these files in its `handlers`: `installed({"news.py": "..."})`."""

    def install(name: str, files: dict[str, str]) -> None:
        folder = tmp_path / name
        for path, text in {"__init__.py": "", **files}.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, name]

    known = set(sys.modules)
    yield install
    for name in set(sys.modules) - known:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]


STATE = """
from mailapp.routing import route

@route("(any)@(host)", any=".+")
def START(message, any, host): ...
"""


def test_handlers_are_found_in_the_package_of_each_app(installed):
    installed(
        "found_app",
        {
            "handlers/__init__.py": "",
            "handlers/news.py": STATE,
            "handlers/deep/__init__.py": STATE,
            "handlers/deep/inner.py": STATE,
            "handlers/plain.py": "",
        },
    )

    found = registry.handler_modules()

    assert {name for name in found if name.startswith("found_app")} == {
        "found_app.handlers.news",
        "found_app.handlers.deep",
        "found_app.handlers.deep.inner",
    }


def test_handlers_may_be_one_module(installed):
    installed("small_app", {"handlers.py": STATE})

    assert "small_app.handlers" in registry.handler_modules()


def test_app_without_handlers_is_no_fault(installed):
    installed("other_app", {})

    assert not any(name.startswith("other_app") for name in registry.handler_modules())


@pytest.mark.parametrize("path", ["handlers.py", "handlers/news.py", "handlers/deep/__init__.py"])
def test_broken_handler_stops_the_start(installed, path):
    name = "broken_" + path.translate(str.maketrans("/.", "__"))
    files = {"handlers/__init__.py": ""} if "/" in path else {}
    installed(name, files | {path: "import no_such_module"})

    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        registry.handler_modules()


def test_tables_can_be_taken_away_and_made_again(project):
    installation = project()

    down = installation.manage("migrate", "mailapp", "zero")
    up = installation.manage("migrate")

    assert down.returncode == up.returncode == 0, down.stderr + up.stderr
    assert installation.query(Queue).count() == 3


def test_migrate_twice_is_as_good_as_once():
    before = set(Queue.objects.values_list("name", flat=True))

    call_command("migrate", verbosity=0)

    assert set(Queue.objects.values_list("name", flat=True)) == before
