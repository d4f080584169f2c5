"""The handler modules of the installed apps, their rows, and the router that they make."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import pkgutil
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from types import ModuleType

from django.apps import apps
from django.db import transaction

from mailapp.conf import mail_settings
from mailapp.models import INCOMING, OUTGOING, UNDELIVERABLE, Handler, Queue
from mailapp.routing import HandlerModule, Router, read_module

_QUEUES = {
    INCOMING: (Queue.Purpose.HANDLERS, "Mail that came in, on its way to the handlers."),
    OUTGOING: (Queue.Purpose.RELAY, "Mail that goes out, on its way to the smart host."),
    UNDELIVERABLE: (Queue.Purpose.HELD, "Mail that nobody took or that failed for good."),
}


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


class _Registry:
    """The router of this process, built again when rows or settings have changed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.key: object = None
        self.checked = 0.0
        self.router: Router | None = None
        self.instead: tuple[ModuleType, ...] = ()

    def use(self, modules: tuple[ModuleType, ...]) -> None:
        with self.lock:
            self.instead, self.router = modules, None

    def current(self, max_age: float) -> Router:
        with self.lock:
            router = self.router
            if router is None or time.monotonic() - self.checked >= max_age:
                router = self.router = self._fresh(router)
                self.checked = time.monotonic()
            return router

    def _fresh(self, router: Router | None) -> Router:
        rows = list(
            Handler.objects.order_by("order", "module").values_list("id", "module", "enabled")
        )
        settings = mail_settings()
        key = (rows, settings)
        if router is None or key != self.key:
            router = _build(rows, settings.HOSTS, settings.ROUTER_DEFAULTS)
            self.key = key
        return router


def _build(rows: list[tuple[int, str, bool]], hosts: list[str], defaults: dict[str, str]) -> Router:
    found = handler_modules()
    ordered = [
        (dataclasses.replace(found[module], row=row), enabled)
        for row, module, enabled in rows
        if module in found
    ]
    return Router(
        [handler for handler, enabled in ordered if enabled],
        hosts=hosts,
        defaults=defaults,
        disabled=[handler for handler, enabled in ordered if not enabled],
    )


_registry = _Registry()


def current_router(max_age: float = 1.0) -> Router:
    """The router of the enabled handlers; changes in the admin show within `max_age` seconds."""
    return _registry.current(max_age)


@contextlib.contextmanager
def instead(*modules: ModuleType) -> Iterator[None]:
    """Have these modules, within the block, in the place of those of the apps."""
    before = _registry.instead
    _registry.use(modules)
    try:
        yield
    finally:
        _registry.use(before)
