"""What a command says of its arguments: its help has an example, what is wrong is one line."""

from __future__ import annotations

import argparse
import sys
from inspect import cleandoc
from typing import Any

from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    DjangoHelpFormatter,
)


class EpilogFormatter(DjangoHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of a description, and of an epilog below the options."""


class ExampleFormatter(DjangoHelpFormatter):
    """Fills the paragraphs of a description, and keeps the lines of the example that ends it."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        described, blank, example = cleandoc(text).rpartition("\n\n")
        return super()._fill_text(described, width, indent) + blank + example


class ExampleCommand(BaseCommand):
    """A command whose help ends in an example, and to whom wrong arguments are worth one line."""

    def run_from_argv(self, argv: list[str]) -> None:
        """Exit with 2 when an argument is wrong."""
        try:
            super().run_from_argv(argv)
        except CommandError as error:  # of the arguments: what comes later is told by Django
            if "--traceback" in argv:
                raise
            self.stderr.write(f"{error}; --help shows what there is")
            sys.exit(2)

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        self._called_from_command_line = False  # or argparse says all options before what is wrong
        return super().create_parser(
            prog_name, subcommand, formatter_class=ExampleFormatter, **kwargs
        )
