"""What a long-running command does before it serves."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from django.conf import settings
from django.core.management.base import CommandError
from django.db import DEFAULT_DB_ALIAS, DatabaseError, OperationalError, connections
from django.db.migrations.executor import MigrationExecutor

from mailapp import registry
from mailapp.endpoints import Endpoint
from mailapp.mime import one_line
from mailapp.receiver.places import check_free


def keep_no_queries() -> None:
    """Save memory in development: with DEBUG, Django keeps every query without end."""
    settings.DEBUG = False


def database_away(error: DatabaseError) -> CommandError:
    """Say in one line why a process cannot start, or go on."""
    return CommandError(f"The database does not answer: {one_line(str(error))}")


def check_tables() -> None:
    """Raise CommandError, which says so in one line, unless the database is up to date."""
    try:
        executor = MigrationExecutor(connections[DEFAULT_DB_ALIAS])
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            raise CommandError("The database is not up to date: run manage.py migrate first.")
    except OperationalError as error:
        raise database_away(error) from error


def prepare() -> None:
    """Make the rows of new handlers; raise CommandError for what keeps all from starting."""
    check_tables()
    try:
        registry.sync()
        registry.current_router()  # raises BadRoute
    except OperationalError as error:
        raise database_away(error) from error


def check_places(places: Iterable[str], ours: Collection[str]) -> None:
    """Raise PortTaken unless each place is free, or held by what is about to end.

    `ours` are the places of that. A port of ours counts at any address, since one address may
    stand for another, as 0.0.0.0 does for all.
    """
    held = {_port(place) for place in ours}
    for place in places:
        if _port(place) not in held:
            check_free(place)


def _port(place: str) -> int | str:
    return place if place.startswith("/") else Endpoint.parse(place).port
