"""Writes what the reference takes from the code, between marks in its pages: `make reference`."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import django
from django.core.management import find_commands, load_command_class
from django.db import models

import mailapp
from mailapp import routing
from mailapp.conf import MailSettings

DOCS = Path(__file__).parent

_DRAWING = re.compile(r"^[A-Z]+ +->", re.MULTILINE)


def settings(page: str) -> Iterator[str]:
    """Each key of `MAIL`."""
    yield from _table("key", "type", "default", "")
    for setting in fields(MailSettings):
        default = repr(_default(setting))
        yield _row(
            f"`{setting.name}`", f"`{setting.type}`", f"`{default}`", setting.metadata["doc"]
        )


def _default(setting: Field[Any]) -> Any:
    factory = setting.default_factory
    return setting.default if factory is MISSING else factory()


def commands(page: str) -> Iterator[str]:
    """Each command of `manage.py`, with a link to its section of the page."""
    headings = {heading.partition(":")[0]: heading for heading in _headings(page)}
    yield from _table("command", "does")
    for name in command_names():
        command = load_command_class("mailapp", name)
        link = f"[`{name}`](#{_anchor(headings[name])})" if name in headings else f"`{name}`"
        yield _row(link, _first_sentence(command.help))


def command_names() -> list[str]:
    """What the framework adds to `manage.py`."""
    return sorted(find_commands(str(Path(mailapp.__path__[0]) / "management")))


def _headings(page: str) -> list[str]:
    return re.findall(r"^## (.+)$", page, re.MULTILINE)


def decorators(page: str) -> Iterator[str]:
    """Each decorator of `mailapp.routing`, as written there."""
    for name, function in inspect.getmembers(routing, inspect.isfunction):
        if function.__annotations__.get("return") in {"Function", "Callable[..., Any]"}:
            yield from _described(f"@{name}", function)
        elif function.__annotations__.get("return") == "Callable[[Function], Function]":
            yield from _described(f"@{name}({_arguments(function)})", function)


def _arguments(function: Callable[..., Any]) -> str:
    parameters = inspect.signature(function).parameters.values()
    return ", ".join(str(each.replace(annotation=each.empty)) for each in parameters)


def tables(page: str) -> Iterator[str]:
    """Each model, with its fields."""
    for model in django.apps.apps.get_app_config("mailapp").get_models():
        yield from _described(model.__name__, model)
        yield from _table("field", "type", "")
        for field in model._meta.fields:
            yield _row(f"`{field.name}`", _kind(field), _notes(field))
        yield "\n"


def _kind(field: models.Field[Any, Any]) -> str:
    if isinstance(field, models.ForeignKey):
        return f"→ {field.related_model.__name__}"
    length = f"({field.max_length})" if field.max_length else ""
    return f"{type(field).__name__.removesuffix('Field')}{length}"


def _notes(field: models.Field[Any, Any]) -> str:
    choices = ", ".join(f"`{value}`" for value, _ in field.choices or ())
    return " ".join(filter(None, [field.help_text, choices]))


def _described(title: str, thing: Any) -> Iterator[str]:
    """A heading and the docstring, whose drawings stay as they are drawn."""
    yield f"### `{title}`\n\n"
    for paragraph in (inspect.getdoc(thing) or "").split("\n\n"):
        if _DRAWING.search(paragraph):
            yield f"```text\n{paragraph}\n```\n\n"
        else:
            yield paragraph.replace("<", "\\<") + "\n\n"


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)\s", " ".join(text.split()), maxsplit=1)[0]


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _table(*titles: str) -> Iterator[str]:
    yield _row(*titles)
    yield "|" + "---|" * len(titles) + "\n"


def _row(*cells: str) -> str:
    return "| " + "".join(f"{_cell(cell)}| " for cell in cells).rstrip() + "\n"


def _cell(text: str) -> str:
    if not text:
        return ""
    # In code that is in a table, forges and MkDocs agree on no way to write a bar but this.
    barred = re.sub(r"`([^`|]*\|[^`]*)`", r"<code>\1</code>", text)
    return barred.replace("|", "&#124;") + " "


#: What is written where.
PARTS: dict[str, Callable[[str], Iterator[str]]] = {
    "settings.md": settings,
    "commands.md": commands,
    "decorators.md": decorators,
    "models.md": tables,
}
BEGIN, END = "<!-- written by docs/reference.py -->\n", "<!-- until here -->\n"


def filled(name: str) -> str:
    """Return a page with what is between its marks written anew."""
    page = (DOCS / name).read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "".join([before, BEGIN, "\n", *PARTS[name](page), "\n", END, after])


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "lamson_project.settings")
    django.setup()
    for name in PARTS:
        (DOCS / name).write_text(filled(name))
