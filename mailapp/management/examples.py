"""How the help of a command looks: its examples keep their lines."""

from __future__ import annotations

import argparse
from inspect import cleandoc
from typing import Any

from django.core.management.base import BaseCommand, CommandParser, DjangoHelpFormatter


class EpilogFormatter(DjangoHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of a description, and of an epilog below the options."""


class ExampleFormatter(DjangoHelpFormatter):
    """Fills the paragraphs of a description, and keeps the lines of the example that ends it."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        described, blank, example = cleandoc(text).rpartition("\n\n")
        return super()._fill_text(described, width, indent) + blank + example


class ExampleCommand(BaseCommand):
    """A command whose help ends in an example."""

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(
            prog_name, subcommand, formatter_class=ExampleFormatter, **kwargs
        )
