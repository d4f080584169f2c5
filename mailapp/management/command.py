"""What the commands that need the database have in common: it may be away."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError

from mailapp.errors import MailError

from .starting import database_away


class DatabaseCommand(BaseCommand):
    """A command that ends in one line when the database is away, or a MailError says why."""

    def execute(self, *args: Any, **options: Any) -> Any:
        """Run Django's checks, of which some ask the database, and then the command."""
        try:
            return super().execute(*args, **options)
        except MailError as error:
            raise CommandError(str(error)) from error
        except OperationalError as error:
            raise database_away(error) from error
