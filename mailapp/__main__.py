"""`python -m mailapp`: the commands that need no project."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mailapp.management.commands import mailversion, startmail

COMMANDS = {"startmail": startmail.Command, "mailversion": mailversion.Command}
PROGRAM = "python -m mailapp"


def main(arguments: Sequence[str]) -> None:
    """Run a command; exit with what there is to type when there is none of that name."""
    command = COMMANDS.get(arguments[0]) if arguments else None
    if command is None:
        known = ", ".join(sorted(COMMANDS))
        sys.exit(f"Type {PROGRAM} COMMAND, one of: {known}. In a project, manage.py has them all.")
    command().run_from_argv([PROGRAM, *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
