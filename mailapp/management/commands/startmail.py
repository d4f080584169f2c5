"""Make a mail project of the user's own, which runs and whose tests pass as it is."""

from __future__ import annotations

import argparse
import keyword
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import django
from django.core.checks.security.base import SECRET_KEY_INSECURE_PREFIX
from django.core.management.base import CommandError
from django.core.management.templates import TemplateCommand
from django.core.management.utils import get_random_secret_key

import mailapp
from mailapp.management.examples import ExampleCommand
from mailapp.mime import visible

TEMPLATE = Path(mailapp.__file__).parent / "project_template"

_PRIVATE = ("run", "logs")  # folders with other people's mail
_OURS = {"guestbook", "manage", "tests", *_PRIVATE}


class Command(ExampleCommand, TemplateCommand):
    help = """
    Make a mail project of your own in the folder DIR, by default NAME: settings, an app with a
    handler of three states, its templates, its model and its tests. It runs as it is, and its
    README.md says what to type.

    Example: manage.py startmail mymail
             python -m mailapp startmail mymail ~/mail   (where there is no project yet)
    """
    missing_args_message = "Give the project a name, as in: startmail mymail"
    rewrite_template_suffixes = ((".py-tpl", ".py"), (".toml-tpl", ".toml"))

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("name", metavar="NAME", help="of the project, as of a Python package")
        parser.add_argument(
            "directory", metavar="DIR", nargs="?", help="new, or empty; default: NAME"
        )

    def handle(  # type: ignore[override]  # as startproject does
        self, *, name: str, directory: str | None, **options: Any
    ) -> None:
        self.validate_name(name)
        folder = _made(Path(directory or name).expanduser())
        super().handle(
            "project",
            name,
            str(folder),
            template=str(TEMPLATE),
            extensions=["py", "md", "txt", "toml"],
            files=["muttrc"],
            mailapp_version=mailapp.__version__,
            mailers=django.VERSION >= (6, 1),
            secret_key=SECRET_KEY_INSECURE_PREFIX + get_random_secret_key(),
            **options,
        )
        for private in _PRIVATE:
            (folder / private).mkdir(mode=0o700)
        where = visible(str(folder))
        self.stdout.write(
            f"Made {where}. Next:\n"
            f"  cd {where}\n"
            "  python manage.py migrate\n"
            "  python manage.py runmail\n"
            "README.md there says the rest."
        )

    def validate_name(self, name: str, name_or_dir: str = "name") -> None:
        """Raise CommandError for what cannot be the name of a new package."""
        if not name.isidentifier() or not name.isascii() or keyword.iskeyword(name):
            raise CommandError(f"{name!r} cannot name a Python package: use letters, digits and _.")
        if name in _OURS or _is_taken(name):
            raise CommandError(f"{name!r} is the name of another module: choose a new one.")


def _made(folder: Path) -> Path:
    """Make a folder where there is none; raise CommandError where there is more."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise CommandError(f"{folder} is not empty: name a new folder.")
    except OSError as error:
        raise CommandError(f"{folder} cannot be made: {error.strerror}") from error
    return folder


def _is_taken(name: str) -> bool:
    """Say whether Python has a module of that name. A mere folder is none."""
    spec = find_spec(name)
    return spec is not None and spec.origin is not None
