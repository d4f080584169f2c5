"""The order of the modules: each imports only from those before it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def drawn() -> list[str]:
    """The modules from the bottom to the edges, as a page draws them. A package counts as one."""
    _, _, rest = (ROOT / "docs/architecture.md").read_text().partition("## Layers\n")
    rows = re.findall(r"^\| *\d* *\| (`.+?) \|", rest.partition("\n## ")[0], re.MULTILINE)
    return re.findall(r"`(\w+)`", " ".join(rows))


ORDER = drawn()

# What only these may import, since everything else must not know of it.
ALONE = {
    "aiosmtpd": {"receiver"},
    "cryptography": {"dkim"},
    "smtplib": {"relay"},
}


def imports(source: Path, package: str) -> Iterator[str]:
    """Yield the full name of each module that a file of `package` imports, wherever it does so."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: -node.level + 1 or None] if node.level else []
            name = ".".join([*above, node.module] if node.module else above)
            yield from (f"{name}.{alias.name}" for alias in node.names)


def sources(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield each file below an app: the module or package it belongs to, its package, its path."""
    for source in sorted(folder.rglob("*.py")):
        parts = source.relative_to(folder).with_suffix("").parts
        if parts[0] not in {"__init__", "migrations"}:
            yield parts[0], ".".join([folder.name, *parts[:-1]]), source


def faults(folder: Path, order: list[str]) -> list[str]:
    """Say which imports below `folder` go against `order` or are somebody else's alone."""
    found = []
    for module, package, source in sources(folder):
        if module not in order:
            found.append(f"{module} has no place in the order")
            continue
        for name in imports(source, package):
            top, _, rest = name.partition(".")
            imported = rest.partition(".")[0]
            if module not in ALONE.get(top, {module}):
                found.append(f"{module} imports {top}")
            elif top == folder.name and imported in order[order.index(module) + 1 :]:
                found.append(f"{module} imports {imported}, which comes after it")
    return found


def readers_of_the_environment(folder: Path) -> list[str]:
    """Name the files that read environment variables.

    To name the settings module, or to hand all of it on to a child process, is no reading.
    """
    return [
        source.name
        for source in sorted(folder.rglob("*.py"))
        if any(_reads_environment(node) for node in ast.walk(ast.parse(source.read_text())))
    ]


def _reads_environment(node: ast.AST) -> bool:
    match node:
        case ast.ImportFrom(module="os"):
            return any(alias.name in {"environ", "getenv"} for alias in node.names)
        case ast.Subscript(value=ast.Attribute(attr="environ")):
            return True
        case ast.Compare(comparators=[ast.Attribute(attr="environ")]):
            return True
        case ast.Attribute(value=ast.Attribute(attr="environ")):
            return node.attr != "setdefault"
    return isinstance(node, ast.Attribute) and node.attr == "getenv"


def test_each_module_imports_only_from_those_before_it():
    assert faults(ROOT / "mailapp", ORDER) == []


def test_each_module_of_the_order_is_there_and_has_one_place():
    assert sorted(ORDER) == sorted({module for module, _, _ in sources(ROOT / "mailapp")})


def test_only_the_settings_read_the_environment():
    folders = [ROOT / name for name in ("mailapp", "lamson_project", "examples")]

    # What systemd says is for one process, and no setting.
    assert [name for folder in folders for name in readers_of_the_environment(folder)] == [
        "systemd.py",
        "settings.py",
    ]


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """An app of two layers, `low` and then the package `high`, in good order."""
    for name in ("low.py", "high/__init__.py", "high/inner.py"):
        file = tmp_path / "app" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("import os\n")
    (tmp_path / "app/high/__init__.py").write_text("from app.low import thing\nfrom . import inner")
    return tmp_path / "app"


def test_good_order_has_no_faults(app):
    assert faults(app, ["low", "high"]) == []


@pytest.mark.parametrize(
    "line",
    [
        "import app.high",
        "import app.high.inner as inner",
        "from app import high",
        "from app.high import inner",
        "from app.high.inner import thing",
        "from . import high",
        "from .high import inner",
        "if TYPE_CHECKING:\n    from app.high import inner",
        "def late():\n    from app.high import inner",
    ],
)
def test_import_of_a_later_module_is_a_fault(app, line):
    (app / "low.py").write_text(line)

    assert faults(app, ["low", "high"]) == ["low imports high, which comes after it"]


@pytest.mark.parametrize("line", ["from ..low import thing", "from .. import low"])
def test_import_from_the_folder_above_counts_too(app, line):
    (app / "high" / "inner.py").write_text(line)

    assert faults(app, ["high", "low"])[-1] == "high imports low, which comes after it"


def test_module_without_a_place_is_a_fault(app):
    assert faults(app, ["low"]) == ["high has no place in the order"] * 2


@pytest.mark.parametrize("line", ["import smtplib", "from aiosmtpd.smtp import SMTP"])
def test_import_of_what_is_another_modules_alone_is_a_fault(app, line):
    (app / "low.py").write_text(line)

    assert faults(app, ["low", "high"]) == [f"low imports {line.split()[1].split('.')[0]}"]


@pytest.mark.parametrize(
    "line",
    [
        "os.environ['A']",
        "os.environ.get('A')",
        "os.getenv('A')",
        "'A' in os.environ",
        "from os import environ",
    ],
)
def test_reader_of_the_environment_is_found(app, line):
    (app / "low.py").write_text(line)

    assert readers_of_the_environment(app) == ["low.py"]


@pytest.mark.parametrize(
    "line",
    ["os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'settings')", "env = {**os.environ}"],
)
def test_passing_the_environment_on_is_no_reading(app, line):
    (app / "low.py").write_text(line)

    assert readers_of_the_environment(app) == []
