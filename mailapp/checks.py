"""System checks: what would lose mail, or stop a process later, is said before it starts."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import connection

from mailapp import conf, registry, signing
from mailapp.amounts import amount
from mailapp.backends import OutboxBackend
from mailapp.conf import MailSettings
from mailapp.endpoints import Backend, Endpoint, SmartHost
from mailapp.errors import BadRoute, KeyUnusable
from mailapp.relay.backend import backend_class
from mailapp.routing import Router

TAG = "mail"

_SOCKET_PATH_OCTETS = 107  # sun_path of unix(7), without its final NUL
_LONGEST_SOCKET = "wake/incoming.4194304.9999"  # see mailapp.wakeup; the largest pid of Linux


def _check_of_settings(check: Callable[[MailSettings], Iterable[CheckMessage]]) -> None:
    """Register a check of `settings.MAIL`; of what is wrong in itself `check_mail` says what."""

    @register(TAG)
    def checked(app_configs: Any, **kwargs: Any) -> Iterable[CheckMessage]:
        try:
            mail = conf.mail_settings()
        except ImproperlyConfigured:
            return []
        return check(mail)


@register(TAG)
def check_mail(app_configs: Any, **kwargs: Any) -> Iterable[CheckMessage]:
    """Check each key of `settings.MAIL`, then what they mean together."""
    if found := conf.problems(getattr(settings, "MAIL", {})):
        return [Error(problem, id="mailapp.E001") for problem in found]
    return _check_together(conf.mail_settings())


def _check_together(mail: MailSettings) -> Iterator[CheckMessage]:
    if connection.vendor == "sqlite" and mail.WORKERS > 1:
        yield Error(
            f'MAIL["WORKERS"] is {mail.WORKERS}, but SQLite has one writer at a time.',
            hint="Use one worker, or PostgreSQL.",
            id="mailapp.E003",
        )
    if mail.DEAD_AFTER_SECONDS < 2 * mail.HEARTBEAT_SECONDS:
        yield Error(
            f'With MAIL["DEAD_AFTER_SECONDS"] = {mail.DEAD_AFTER_SECONDS:g} processes that live '
            "count as dead, and others take their mail from them.",
            hint='Set it to twice MAIL["HEARTBEAT_SECONDS"] or more.',
            id="mailapp.E020",
        )
    path = os.fsencode(Path(mail.RUN_DIR) / _LONGEST_SOCKET)
    if connection.vendor != "postgresql" and len(path) > _SOCKET_PATH_OCTETS:
        yield Error(
            f'MAIL["RUN_DIR"] is {amount(len(path) - _SOCKET_PATH_OCTETS, "octet")} too long '
            "for the Unix sockets in it.",
            id="mailapp.E004",
        )
    if not settings.DEBUG and set(mail.HOSTS) == {"localhost"}:
        yield Warning(
            'MAIL["HOSTS"] is only localhost, so all mail from elsewhere is refused.',
            id="mailapp.W001",
        )


@_check_of_settings
def check_relay(mail: MailSettings) -> Iterator[CheckMessage]:
    """Check that outgoing mail has somewhere to go, and does not come back to us."""
    for upstream in mail.upstreams:
        if isinstance(upstream, Backend):
            yield from _check_backend(upstream)
        else:
            yield from _check_smart_host(upstream, mail)
    if mail.RELAY_CA_FILE:
        yield from _check_authorities(mail.RELAY_CA_FILE)


def _check_smart_host(host: SmartHost, mail: MailSettings) -> Iterator[CheckMessage]:
    if any(_is_at(host.place, ours, mail) for ours in _our_places(mail)):
        yield Error(
            f'MAIL["RELAY"] is our own receiver, {host}: mail would go in a circle.',
            hint="Name the smart host, or the mail catcher for development.",
            id="mailapp.E002",
        )
    if host.user and not host.password:
        yield Error(
            f'MAIL["RELAY"] has no password for {host}.',
            hint='Set MAIL["RELAY_PASSWORD"].',
            id="mailapp.E016",
        )


def _our_places(mail: MailSettings) -> Iterator[Endpoint | Path]:
    for place in (mail.RECEIVER, mail.RECEIVER_TLS, mail.SUBMISSION, mail.SUBMISSION_TLS):
        if place:
            yield Endpoint.parse(place)
    if mail.LMTP:
        yield Path(mail.LMTP) if mail.LMTP.startswith("/") else Endpoint.parse(mail.LMTP)


def _is_at(theirs: Endpoint | Path, ours: Endpoint | Path, mail: MailSettings) -> bool:
    if isinstance(theirs, Path) or isinstance(ours, Path):
        return theirs == ours
    if theirs.port != ours.port:
        return False
    names = {ours.host.lower()}
    if ours.is_here or ours.host in _EVERYWHERE:
        names |= {"localhost"}
    if ours.host in _EVERYWHERE:
        names |= {mail.hostname, socket.gethostname().lower()}
    return theirs.host.lower() in names or (theirs.is_here and "localhost" in names)


_EVERYWHERE = {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound


def _check_backend(backend: Backend) -> Iterator[CheckMessage]:
    try:
        found = backend_class(backend)
    except (ImportError, LookupError) as error:
        yield Error(
            f'MAIL["RELAY"] names an email backend that is not there: {error}',
            hint=f"If it is a smart host, write smtp://{backend}.",
            id="mailapp.E017",
        )
        return
    if isinstance(found, type) and issubclass(found, OutboxBackend):
        yield Error(
            f'MAIL["RELAY"] is {backend}, the outbox itself: mail would go in a circle.',
            hint="Name the backend that is to send what is in the outbox.",
            id="mailapp.E018",
        )


def _check_authorities(file: str) -> Iterator[CheckMessage]:
    try:
        ssl.create_default_context(cafile=file)
    except OSError as error:
        yield Error(
            f'MAIL["RELAY_CA_FILE"], {file}, cannot be used: {error}',
            hint="It is a PEM file of certificates.",
            id="mailapp.E019",
        )


@register(TAG)
def check_sqlite_is_durable(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    """Check that a commit survives a power cut, and that writers queue instead of failing."""
    if connection.vendor != "sqlite":
        return
    options = connection.settings_dict["OPTIONS"]
    pragmas = options.get("init_command", "")
    if str(options.get("transaction_mode", "")).upper() != "IMMEDIATE":
        yield Error(
            "SQLite must begin its transactions IMMEDIATE, or claims fail when two meet.",
            hint='Set OPTIONS["transaction_mode"] to "IMMEDIATE".',
            id="mailapp.E005",
        )
    for pragma, value, why in (
        ("journal_mode", "wal", "the receiver and the workers wait for each other"),
        ("synchronous", "full|extra|2|3", "a power cut loses mail that was answered with 250"),
    ):
        if not re.search(rf"\b{pragma}\s*=\s*({value})\b", pragmas, re.IGNORECASE):
            setting = f"{pragma}={value.partition('|')[0].upper()}"
            yield Error(
                f"Without {setting} in SQLite, {why}.",
                hint=f'Put "PRAGMA {setting};" into OPTIONS["init_command"].',
                id="mailapp.E006",
            )


@register(TAG)
def check_storage(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    """Check that there is a place for large messages."""
    if "mail" not in settings.STORAGES:
        yield Error(
            'STORAGES has no "mail", where large messages are kept.',
            hint='"mailapp.storage.DurableFileSystemStorage" syncs what it writes.',
            id="mailapp.E007",
        )


@register(TAG)
def check_secret_key(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    """Check that there is a key to make return paths with."""
    with contextlib.suppress(ImproperlyConfigured):  # so Django says that it is empty
        if settings.SECRET_KEY:
            return
    yield Error(
        "SECRET_KEY is empty, and the addresses that bounces come back to are made with it.",
        hint="Set it to 50 random characters, and keep them from one start to the next.",
        id="mailapp.E015",
    )


@register(TAG)
def check_time_zones(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage]:
    """Check that each moment is kept once and for all."""
    if not settings.USE_TZ:
        yield Error(
            "USE_TZ is False: moments are kept in local time, of which one hour a year comes "
            "twice, and mail and timers would be early or late by it.",
            hint="Set USE_TZ = True.",
            id="mailapp.E021",
        )


@_check_of_settings
def check_routes(mail: MailSettings) -> Iterator[CheckMessage]:
    """Check that the routes of all handler modules can be used."""
    try:
        handlers = registry.handler_modules().values()
        Router(list(handlers), hosts=mail.HOSTS, defaults=mail.ROUTER_DEFAULTS)
    except BadRoute as error:
        yield Error(str(error), id="mailapp.E008")


@_check_of_settings
def check_engine(mail: MailSettings) -> Iterator[CheckMessage]:
    """Check that the engine is installed, and that it fits the database."""
    engine = mail.ENGINE
    if connection.vendor == "sqlite" and engine in _SIDE_BY_SIDE:
        yield Error(
            f'MAIL["ENGINE"] is {engine}, {_SIDE_BY_SIDE[engine]}',
            hint="Use PostgreSQL, or the engine local.",
            id="mailapp.E009",
        )
    if not _is_installed(engine):
        yield Error(
            f'MAIL["ENGINE"] is {engine}, which is not installed.',
            hint=f'pip install "lamson-django[{engine}]"',
            id="mailapp.E010",
        )
    elif check := _OF_ENGINE.get(engine):
        yield from check()


@_check_of_settings
def check_dkim(mail: MailSettings) -> Iterator[CheckMessage]:
    """Check that each key for signing can be used, and is as strong as others expect."""
    domains = mail.DKIM
    if domains and not find_spec("cryptography"):
        yield Error(
            'MAIL["DKIM"] needs cryptography, which is not installed.',
            hint='pip install "lamson-django[dkim]"',
            id="mailapp.E013",
        )
        return
    for path in {path for selectors in domains.values() for path in selectors.values()}:
        yield from _check_key(path)


def _check_key(path: str) -> Iterator[CheckMessage]:
    try:
        bits = getattr(signing.key(path), "key_size", _GOOD_BITS)
    except KeyUnusable as error:
        yield Error(
            str(error), hint="manage.py makedkim makes a key and its record.", id="mailapp.E014"
        )
    else:
        if bits < _GOOD_BITS:
            yield Warning(
                f"The DKIM key {path} has {bits} bits, and some ignore one below {_GOOD_BITS}.",
                hint="manage.py makedkim makes a key and its record.",
                id="mailapp.W003",
            )


_GOOD_BITS = 2048  # of RSA: RFC 8301 3.2

_SIDE_BY_SIDE = {
    "celery": "whose workers write side by side, but SQLite has one writer at a time.",
    "procrastinate": "which keeps its jobs in PostgreSQL.",
}


def _is_installed(engine: str) -> bool:
    if engine == "tasks":
        return bool(find_spec("django.tasks") or find_spec("django_tasks"))
    return engine == "local" or bool(find_spec(engine))


def _check_celery() -> Iterator[CheckMessage]:
    from celery import current_app

    if not current_app.conf.broker_url:
        yield Warning(
            "Celery has no broker_url, so it looks for RabbitMQ on this machine.",
            hint="Import your Celery app in the package of your settings.",
            id="mailapp.W002",
        )


def _check_procrastinate() -> Iterator[CheckMessage]:
    if not apps.is_installed("procrastinate.contrib.django"):
        yield Error(
            "The tables of procrastinate are missing.",
            hint='Put "procrastinate.contrib.django" into INSTALLED_APPS.',
            id="mailapp.E011",
        )


def _check_tasks() -> Iterator[CheckMessage]:
    from mailapp.engines.tasks import drain

    backend = type(drain.get_backend()).__name__
    if backend in {"ImmediateBackend", "DummyBackend"}:
        yield Error(
            f'TASKS["default"] is the {backend}, which has no workers.',
            hint='Name a backend that has, such as "django_tasks_db.DatabaseBackend".',
            id="mailapp.E012",
        )


_OF_ENGINE = {
    "celery": _check_celery,
    "procrastinate": _check_procrastinate,
    "tasks": _check_tasks,
}
