"""Make the admin user of a development machine, with a random password, once."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import CommandError
from django.db import DatabaseError

from mailapp.conf import mail_settings
from mailapp.management.command import MailCommand
from mailapp.mime import one_line

NAME = "admin"


class Command(MailCommand):
    help = """
    Make the superuser “admin” with a random password, which is printed and kept in
    RUN_DIR/admin-password. Nothing is done where a superuser exists.

    Example: manage.py makeadmin
    """

    def handle(self, **options: Any) -> None:
        if _is_there_one():
            return
        kept = Path(mail_settings().RUN_DIR) / "admin-password"
        password = _kept_password(kept)
        get_user_model()._default_manager.create_superuser(NAME, password=password)
        self.stdout.write(f"Made the user {NAME} with the password {password} (kept in {kept})")


def _is_there_one() -> bool:
    try:
        return get_user_model()._default_manager.filter(is_superuser=True).exists()
    except DatabaseError as error:
        raise CommandError(
            f"The users cannot be read; was manage.py migrate run? ({one_line(str(error))})"
        ) from error


def _kept_password(kept: Path) -> str:
    """Read the password, or choose one and write it where only this user can read it."""
    with contextlib.suppress(FileExistsError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(kept, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(12) + "\n")
    return kept.read_text().strip()
