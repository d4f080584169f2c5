"""What our commands have in common: what is wrong they say in one line."""

from __future__ import annotations

import os
import sys
from typing import Any

import django
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db import OperationalError, connection, transaction

from mailapp.errors import MailError

from .examples import ExampleCommand
from .starting import database_away


class MailCommand(ExampleCommand):
    """A command that ends in one line at a MailError, wrong settings or a database that is away.

    And in none when nobody reads what it writes.
    """

    def check(self, *args: Any, **options: Any) -> Any:
        """Run Django's checks.

        From 6.1 on they ask the database, and take one that is away for one without JSON.
        """
        if django.VERSION >= (6, 1):
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        return super().check(*args, **options)

    def execute(self, *args: Any, **options: Any) -> Any:
        """Run Django's checks, of which some ask the database, and then the command."""
        try:
            done = super().execute(*args, **options)
            sys.stdout.flush()
        except BrokenPipeError:  # who reads, such as head, has had enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except (ImproperlyConfigured, MailError) as error:
            raise CommandError(str(error)) from error
        except OperationalError as error:
            raise database_away(error) from error
        else:
            return done
