"""The system checks: `manage.py check` says what would go wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import django
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from django.core.checks import run_checks
from django.db import connection

from mailapp import dkim, registry
from mailapp.backends import OutboxBackend
from mailapp.checks import TAG
from mailapp.routing import route
from tests.modules import make_module
from tests.signatures import pem, weak_key

TASKS = "django.tasks" if django.VERSION >= (6, 0) else "django_tasks"


class OtherOutbox(OutboxBackend):
    """One of a project's own."""


@pytest.fixture
def check(settings) -> Callable[..., list[str]]:
    """Run the checks with other values in MAIL and return the ids of what they found."""

    def run(**mail: Any) -> list[str]:
        settings.DEBUG = True
        settings.MAIL = {**settings.MAIL, **mail}
        return [message.id for message in run_checks(tags=[TAG])]

    return run


@pytest.fixture
def sqlite() -> None:
    if connection.vendor != "sqlite":
        pytest.skip("of SQLite")


@pytest.fixture
def sqlite_options(sqlite, monkeypatch) -> Callable[..., None]:
    def change(**options: Any) -> None:
        changed = {**connection.settings_dict["OPTIONS"], **options}
        monkeypatch.setitem(connection.settings_dict, "OPTIONS", changed)

    return change


def test_settings_of_this_project_have_no_faults(check):
    assert check() == []


def test_each_fault_in_mail_is_an_error(check):
    assert check(HOSTS=[], BATCH_SIZE="many", HOST="localhost") == ["mailapp.E001"] * 3


def test_mail_that_is_no_dict_is_an_error(settings):
    settings.MAIL = "localhost"

    [message] = run_checks(tags=[TAG])

    assert "must be a dict" in message.msg


@pytest.mark.parametrize("receiver", ["127.0.0.1:25", "0.0.0.0:25", "localhost:25", "[::]:25"])
def test_relay_that_is_the_receiver_is_an_error(check, receiver):
    assert check(RECEIVER=receiver, RELAY="127.0.0.1:25") == ["mailapp.E002"]


@pytest.mark.parametrize(
    ("mail", "relay"),
    [
        ({"RECEIVER": "0.0.0.0:25", "HOSTNAME": "mx.example.com"}, "mx.example.com:25"),
        ({"RECEIVER": "192.0.2.1:25"}, "smtp://192.0.2.1"),
        ({"RECEIVER_TLS": "0.0.0.0:465"}, "smtps://localhost"),
        ({"SUBMISSION": "0.0.0.0:587"}, ["smtp://mail.example.com", "smtp://localhost:587"]),
        ({"LMTP": "/run/mail/lmtp"}, "lmtp:///run/mail/lmtp"),
        ({"LMTP": "127.0.0.1:24"}, "lmtp://localhost"),
    ],
)
def test_relay_that_is_another_door_of_ours_is_an_error(check, mail, relay):
    assert check(**mail, RELAY=relay) == ["mailapp.E002"]


@pytest.mark.parametrize("relay", ["127.0.0.1:26", "mail.example.com:25", "lmtp:///run/lmtp"])
def test_relay_elsewhere_is_none(check, relay):
    assert check(RECEIVER="0.0.0.0:25", RELAY=relay) == []


def test_user_of_a_relay_without_a_password_is_an_error(check):
    relay = "smtp://user@mail.example.com"

    assert check(RELAY=relay) == ["mailapp.E016"]
    assert check(RELAY=relay, RELAY_PASSWORD="secret") == []


def test_relay_that_takes_a_password_in_the_clear_is_an_error(check):
    assert check(RELAY="smtp://user:secret@mail.example.com?tls=none") == ["mailapp.E001"]
    assert check(RELAY="smtp://user:secret@localhost") == []


@pytest.mark.parametrize("backend", ["no.such.Backend", "mailapp.backends.NoSuch", "nobody"])
def test_relay_that_is_no_backend_is_an_error(check, backend):
    assert check(RELAY=backend) == ["mailapp.E017"]


@pytest.mark.parametrize(
    "backend", ["mailapp.backends.OutboxBackend", "tests.integration.test_checks.OtherOutbox"]
)
def test_outbox_whose_way_out_is_itself_is_an_error(check, backend):
    assert check(RELAY=backend) == ["mailapp.E018"]


def test_alias_of_another_backend_is_known_where_there_are_mailers(check, settings):
    settings.MAILERS = {
        "default": {"BACKEND": "mailapp.backends.OutboxBackend"},
        "out": {"BACKEND": "django.core.mail.backends.console.EmailBackend"},
    }

    assert check(RELAY="out") == []
    assert check(RELAY=["out", "default"]) == ["mailapp.E018"]


def test_file_of_authorities_that_is_none_is_an_error(check, tmp_path, certificate):
    empty = tmp_path / "empty.pem"
    empty.touch()

    for file in (tmp_path / "missing.pem", empty):
        assert check(RELAY_CA_FILE=str(file)) == ["mailapp.E019"]
    assert check(RELAY_CA_FILE=certificate.authority) == []


def test_workers_beside_each_other_on_sqlite_are_an_error(check, sqlite_options):
    assert check(WORKERS=2) == ["mailapp.E003"]


def test_processes_that_are_dead_before_their_next_heartbeat_are_an_error(check):
    assert check(HEARTBEAT_SECONDS=5, DEAD_AFTER_SECONDS=9) == ["mailapp.E020"]


def test_run_folder_that_is_too_long_for_a_socket_is_an_error(check, sqlite_options):
    longest = "/" + "x" * 79

    assert check(RUN_DIR=longest) == []
    assert check(RUN_DIR=longest + "x") == ["mailapp.E004"]


def test_only_localhost_in_production_is_a_warning(check, settings):
    check()
    settings.DEBUG = False

    assert [message.id for message in run_checks(tags=[TAG])] == ["mailapp.W001"]


@pytest.mark.parametrize("mode", [None, "DEFERRED"])
def test_sqlite_that_does_not_begin_immediate_is_an_error(check, sqlite_options, mode):
    sqlite_options(transaction_mode=mode)

    assert check() == ["mailapp.E005"]


@pytest.mark.parametrize(
    "pragmas",
    ["PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA synchronous=NORMAL;"
     "PRAGMA journal_mode=WAL"],
)  # fmt: skip
def test_sqlite_that_may_lose_a_commit_is_an_error(check, sqlite_options, pragmas):
    sqlite_options(init_command=pragmas)

    assert check() == ["mailapp.E006"]


def test_sqlite_pragmas_may_be_written_otherwise(check, sqlite_options):
    sqlite_options(init_command="pragma JOURNAL_MODE = wal; pragma SYNCHRONOUS = extra")

    assert check() == []


def test_missing_place_for_large_messages_is_an_error(check, settings):
    settings.STORAGES = {name: of for name, of in settings.STORAGES.items() if name != "mail"}

    assert check() == ["mailapp.E007"]


def test_missing_key_for_return_paths_is_an_error(check, settings):
    settings.SECRET_KEY = ""

    assert check() == ["mailapp.E015"]


def test_moments_in_local_time_are_an_error(check, settings):
    settings.USE_TZ = False

    assert check() == ["mailapp.E021"]


def test_route_that_cannot_be_used_is_an_error(check, monkeypatch):
    @route("(name)@(host)")
    def START(message, **captures): ...

    with registry.instead(make_module(monkeypatch, "broken", START)):
        assert check() == ["mailapp.E008"]


def test_engine_that_does_not_exist_is_an_error(check):
    assert check(ENGINE="carrier-pigeon") == ["mailapp.E001"]


@pytest.mark.parametrize("engine", ["celery", "procrastinate"])
def test_engine_whose_workers_write_side_by_side_does_not_fit_sqlite(check, sqlite, engine):
    assert "mailapp.E009" in check(ENGINE=engine)


@pytest.mark.parametrize("engine", ["celery", "procrastinate", "tasks"])
def test_engine_that_is_not_installed_is_an_error(check, monkeypatch, engine):
    for package in ("celery", "procrastinate", "django.tasks", "django_tasks"):
        monkeypatch.setitem(sys.modules, package, None)

    assert check(ENGINE=engine)[-1:] == ["mailapp.E010"]


def test_celery_without_a_broker_is_a_warning(check):
    assert check(ENGINE="celery")[-1:] == ["mailapp.W002"]


def test_procrastinate_without_its_app_is_an_error(check):
    assert check(ENGINE="procrastinate")[-1:] == ["mailapp.E011"]


@pytest.mark.parametrize("backend", ["immediate.ImmediateBackend", "dummy.DummyBackend"])
def test_tasks_that_no_worker_takes_are_an_error(check, settings, backend):
    settings.TASKS = {"default": {"BACKEND": f"{TASKS}.backends.{backend}"}}

    assert check(ENGINE="tasks") == ["mailapp.E012"]


def test_tasks_with_workers_fit_any_database(check, settings):
    settings.TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}

    assert check(ENGINE="tasks") == []


@pytest.fixture
def check_key(check, tmp_path) -> Callable[..., list[str]]:
    """Run the checks with a file for a key: `check_key(b"...")`, or without it: `check_key()`."""

    def run(content: bytes | None = None) -> list[str]:
        file = tmp_path / "key.pem"
        if content is not None:
            file.write_bytes(content)
        return check(DKIM={"example.com": {"2026": str(file)}})

    return run


@pytest.mark.parametrize("content", [dkim.new_key(), dkim.new_key(ed25519=True)], ids=["rsa", "ed"])
def test_good_key_is_no_fault(check_key, content):
    assert check_key(content) == []


@pytest.mark.parametrize("content", [None, b"", pem(weak_key())], ids=["none", "empty", "weak"])
def test_key_that_cannot_be_used_is_an_error(check_key, content):
    assert check_key(content) == ["mailapp.E014"]


def test_key_that_some_ignore_is_a_warning(check_key):
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)

    assert check_key(pem(small)) == ["mailapp.W003"]


def test_key_without_the_extra_is_an_error(check_key, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)

    assert check_key(dkim.new_key()) == ["mailapp.E013"]
