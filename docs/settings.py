"""Writes the table in settings.md from what `MailSettings` says: `make docs-settings`."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from mailapp.conf import MailSettings

PAGE = Path(__file__).with_suffix(".md")
HEAD = "| key | type | default | |\n|---|---|---|---|\n"
BEGIN, END = "<!-- written by docs/settings.py -->\n", "<!-- until here -->\n"


def filled(page: str) -> str:
    """Return the page with its table anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "".join([before, BEGIN, HEAD, *map(_line, fields(MailSettings)), END, after])


def _line(setting: Field[Any]) -> str:
    default = setting.default_factory() if setting.default is MISSING else setting.default  # type: ignore[misc]
    return f"| `{setting.name}` | `{setting.type}` | `{default!r}` | {setting.metadata['doc']} |\n"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
