"""The package as its users have it: a wheel, in a virtual environment of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from tests.project import ROOT

_SOURCES = ("LICENSE", "README.md", "pyproject.toml", "requirements.txt")


def build_wheel(folder: Path) -> Path:
    """Build the wheel in `folder`, from a copy, since the build writes beside its sources."""
    sources = folder / "sources"
    shutil.copytree(
        ROOT / "mailapp", sources / "mailapp", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in _SOURCES:
        shutil.copy(ROOT / name, sources)
    _pip("wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}", str(sources))
    [wheel] = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """Install a wheel in a new virtual environment; return the folder of its programs.

    What the package depends on is that of the Python that runs, so nothing is fetched.
    """
    venv.create(folder, with_pip=False)
    programs = folder / "bin"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    asked = subprocess.run(
        [programs / "python", "-c", where], capture_output=True, text=True, check=True
    )
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(asked.stdout.strip()) / "dependencies.pth").write_text("\n".join(paths))
    _pip("--python", str(programs / "python"), "install", "--no-deps", "--no-index", str(wheel))
    return programs


def _pip(*arguments: str) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    done = subprocess.run([*pip, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
