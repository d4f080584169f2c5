"""What stands below the options in the help of a command."""

from __future__ import annotations

import argparse

from django.core.management.base import DjangoHelpFormatter


class EpilogFormatter(DjangoHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the examples."""
