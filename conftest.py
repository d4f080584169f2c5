"""What the tests run on: a database and a run folder of their own, never those of `make run`.

Django is set up once the options are read, so conftest files import models inside fixtures.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests import fuzzing, postgres

if TYPE_CHECKING:
    from pytest_django import DjangoDbBlocker

# Where the project is installed, its entry point has the same name, and so it is loaded once.
pytest_plugins = ["mailapp.testing.plugin"]

_missing = pytest.StashKey[str]()

# What the settings read, with every MAIL_*.
_OURS = {
    *("ALLOWED_HOSTS", "CSRF_TRUSTED_ORIGINS", "DATABASE_URL", "DEBUG", "RUN_DIR", "SECRET_KEY"),
    *("LOG_DIR", "LOG_FILES", "LOG_FORMAT", "LOG_LEVEL"),
    *("SECURE_HSTS_SECONDS", "SECURE_SSL_REDIRECT", "UNSUBSCRIBE_URL", "WEB"),
}
# What the tests read, and no settings.
_FOR_TESTS = {postgres.VARIABLE, "MAIL_CORPUS", "MAIL_WIRE"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--database",
        choices=["sqlite", "postgresql"],
        default="sqlite",
        help="what to test on; with postgresql only the tests that need a database run",
    )
    parser.addoption(
        "--kills",
        type=int,
        default=50,
        help="how often to kill a part in the middle of the work; 100 mails for each four",
    )
    parser.addoption(
        "--seed", type=int, default=1, help="what decides the moments of the kills; default: 1"
    )
    parser.addoption(
        "--deq-mails", type=int, default=200, help="how many mails two deq share; default: 200"
    )
    parser.addoption(
        "--restarts",
        type=int,
        default=5,
        help="how often to end PostgreSQL as a crash does while mail comes in, and start it again",
    )
    parser.addoption(
        "--failpoints",
        choices=["together", "each"],
        default="together",
        help="let all that can fail once do so under the same mails, or then each alone, too",
    )
    parser.addoption(
        "--fuzz-seconds",
        type=float,
        help="how long to try random input, in all the tests of it that run (-m fuzz) together; "
        f"default: {fuzzing.SHARE:g} for each, about a minute for all of them",
    )


def pytest_configure(config: pytest.Config) -> None:
    from django.conf import ENVIRONMENT_VARIABLE, settings

    config.addinivalue_line(
        "markers", "fuzz: tries random input for as long as --fuzz-seconds says"
    )
    if settings.configured:
        raise pytest.UsageError("the tests choose their settings: unset DJANGO_SETTINGS_MODULE")
    if not hasattr(config, "workerinput"):  # not in a worker of xdist, whose parent ends it
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # end what was started, too
    run_dir = tempfile.TemporaryDirectory(prefix="mail-tests-")
    config.add_cleanup(run_dir.cleanup)
    url = f"sqlite:///{run_dir.name}/mail.sqlite3"
    if config.getoption("database") == "postgresql":
        url = _postgres_url(config) or url
    _set_environment(run_dir.name, url)
    os.environ[ENVIRONMENT_VARIABLE] = "lamson_project.settings"
    assert settings.DATABASES  # loaded now, while the environment names them
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # quick
    del os.environ[ENVIRONMENT_VARIABLE]  # each worker of xdist comes here by itself


def _postgres_url(config: pytest.Config) -> str | None:
    server = postgres.server(durable=False)
    try:
        url = server.__enter__()
    except postgres.NoPostgres as error:
        if os.environ.get("CI"):
            raise pytest.UsageError(str(error)) from None
        config.stash[_missing] = str(error)
        return None
    config.add_cleanup(lambda: server.__exit__(None, None, None))
    os.environ[postgres.VARIABLE] = url  # the workers of xdist share it
    return url


def _set_environment(run_dir: str, url: str) -> None:
    for name in list(os.environ):
        if name in _OURS or (name.startswith("MAIL_") and name not in _FOR_TESTS):
            del os.environ[name]
    os.environ.update({"DATABASE_URL": url, "RUN_DIR": run_dir})
    # Else each of the hundreds of programs that are started compiles all of ours anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_report_header(config: pytest.Config) -> str:
    return f"database: {config.getoption('database')}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("database") == "sqlite":
        return
    without = [item for item in items if not _needs_database(item)]
    config.hook.pytest_deselected(items=without)
    items[:] = [item for item in items if _needs_database(item)]
    if config.stash.get(_missing, ""):
        for item in items:
            item.add_marker(pytest.mark.skip(reason="no PostgreSQL"))


def _needs_database(item: pytest.Item) -> bool:
    fixtures = {"db", "transactional_db", "project_databases"}
    if item.get_closest_marker("any_database"):
        return False
    return bool(item.get_closest_marker("django_db") or fixtures.intersection(item.fixturenames))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not pyfuncitem.get_closest_marker("fuzz"):
        return None
    seconds = fuzzing.share(pyfuncitem.config, pyfuncitem.session.items)
    fuzzing.run(pyfuncitem, seconds)
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reason = terminalreporter.config.stash.get(_missing, "")
    if reason:
        loud = {"red": True, "bold": True}
        terminalreporter.section("NOTHING WAS TESTED ON POSTGRESQL", sep="!", **loud)
        terminalreporter.line(reason, **loud)


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings_parallel_suffix: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A real file for SQLite, since threads and processes share it as they do in earnest.

    It need not survive a power cut, and most of the time would go into that.
    """
    from django.db import connection

    if connection.vendor == "sqlite":
        folder = tmp_path_factory.mktemp("database")
        connection.settings_dict["TEST"]["NAME"] = str(folder / "mail.sqlite3")
        connection.settings_dict["OPTIONS"]["init_command"] += "PRAGMA synchronous=OFF;"


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """After a test that commits, put back the rows that `migrate` makes.

    Django would have its apps find out anew which those are, which takes longer than most tests.
    """
    from django.contrib.auth.models import Permission
    from django.contrib.contenttypes.models import ContentType
    from django.core.management.color import no_style
    from django.db import connection

    from mailapp.models import Handler, Queue

    with django_db_blocker.unblock():
        models = (ContentType, Permission, Queue, Handler)
        made = [(model.objects, list(model.objects.all())) for model in models]
        beyond_them = connection.ops.sequence_reset_sql(no_style(), models)

    def put_back(*ignored: object) -> None:
        for objects, rows in made:
            objects.bulk_create(rows)
        with connection.cursor() as cursor:  # a test may have had keys begin anew
            for statement in beyond_them:
                cursor.execute(statement)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("django.core.management.commands.flush.emit_post_migrate_signal", put_back)
        yield
