"""The handler modules of the installed apps, their rows, and the router that they make."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import pkgutil
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from importlib.util import find_spec
from types import ModuleType

from django.apps import apps
from django.db import connection, transaction

from mailapp.conf import MailSettings, mail_settings
from mailapp.models import INCOMING, OUTGOING, UNDELIVERABLE, Handler, Queue
from mailapp.routing import HandlerModule, Router, read_module

_QUEUES = {
    INCOMING: (Queue.Purpose.HANDLERS, "Mail that came in, on its way to the handlers."),
    OUTGOING: (Queue.Purpose.RELAY, "Mail that goes out, on its way to the smart host."),
    UNDELIVERABLE: (Queue.Purpose.HELD, "Mail that nobody took or that failed for good."),
}

# The ORM takes several times as long to word it as a database to run it, before each batch.
_ROWS = 'SELECT id, module, enabled FROM mailapp_handler ORDER BY "order", module'


def handler_modules() -> dict[str, HandlerModule]:
    """Import `handlers` of each installed app and read its modules, by name.

    What an import or a route raises is raised here: a broken handler stops the start.
    """
    found = {}
    for module in _registry.instead or map(importlib.import_module, _module_names()):
        if handler := read_module(module):
            found[handler.name] = handler
    return found


def _module_names() -> Iterator[str]:
    for app in apps.get_app_configs():
        spec = find_spec(f"{app.name}.handlers")
        if spec is None:
            continue
        yield spec.name
        for module in pkgutil.walk_packages(spec.submodule_search_locations or [], f"{spec.name}."):
            yield module.name


def sync() -> None:
    """Make the queues and a Handler row for each new module; mark modules that are gone."""
    found = handler_modules()
    with transaction.atomic():
        for name, (purpose, description) in _QUEUES.items():
            Queue.objects.get_or_create(
                name=name, defaults={"purpose": purpose, "description": description}
            )
        for name in _queues_of(found.values()) - _QUEUES.keys():
            Queue.objects.get_or_create(
                name=name, defaults={"description": "Mail that handlers have put here for later."}
            )
        Handler.objects.bulk_create(
            [
                Handler(
                    module=handler.name,
                    order=handler.order,
                    enabled=handler.enabled,
                    description=handler.description,
                )
                for handler in found.values()
            ],
            ignore_conflicts=True,
        )
        Handler.objects.filter(module__in=found, found=False).update(found=True)
        Handler.objects.exclude(module__in=found).filter(found=True).update(found=False)


def _queues_of(handlers: Iterable[HandlerModule]) -> set[str]:
    """The queues whose mail some function takes."""
    return {
        queue for handler in handlers for state in handler.states.values() for queue in state.queues
    }


class _Registry:
    """The routers of this process, one a queue, built again when rows or settings have changed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.rows: list[tuple[int, str, bool]] = []
        self.settings: MailSettings | None = None
        self.checked = 0.0
        self.routers: dict[str, Router] = {}
        self.instead: tuple[ModuleType, ...] = ()
        self.only: frozenset[str] = frozenset()

    def use(self, modules: tuple[ModuleType, ...]) -> None:
        with self.lock:
            self.instead, self.routers = modules, {}

    def limit(self, modules: frozenset[str]) -> None:
        with self.lock:
            self.only, self.routers = modules, {}

    def current(self, queue: str, max_age: float) -> Router:
        with self.lock:
            if not self.routers or time.monotonic() - self.checked >= max_age:
                self._look()
                self.checked = time.monotonic()
            if queue not in self.routers:
                self.routers[queue] = self._build(queue)
            return self.routers[queue]

    def _look(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute(_ROWS)
            rows = [(row, module, bool(enabled)) for row, module, enabled in cursor]
        settings = mail_settings()
        if (rows, settings) != (self.rows, self.settings):
            self.rows, self.settings, self.routers = rows, settings, {}

    def _build(self, queue: str) -> Router:
        settings, found = mail_settings(), handler_modules()
        handlers = {
            dataclasses.replace(found[module], row=row): enabled
            and (not self.only or module in self.only)
            for row, module, enabled in self.rows
            if module in found
        }
        return Router(
            [handler for handler, is_on in handlers.items() if is_on],
            hosts=settings.HOSTS,
            defaults=settings.ROUTER_DEFAULTS,
            disabled=[handler for handler, is_on in handlers.items() if not is_on],
            queues=[queue, INCOMING] if self.only else [queue],
        )


_registry = _Registry()


def current_router(max_age: float = 1.0, queue: str = INCOMING) -> Router:
    """The router of the enabled handlers, by default for mail that came in.

    Changes in the admin show within `max_age` seconds.
    """
    return _registry.current(queue, max_age)


@contextlib.contextmanager
def limited_to(modules: Collection[str]) -> Iterator[None]:
    """Have no other handler modules take mail in this process, within the block; of any queue."""
    _registry.limit(frozenset(modules))
    try:
        yield
    finally:
        _registry.limit(frozenset())


@contextlib.contextmanager
def instead(*modules: ModuleType) -> Iterator[None]:
    """Have these modules, within the block, in the place of those of the apps."""
    before = _registry.instead
    _registry.use(modules)
    try:
        yield
    finally:
        _registry.use(before)
