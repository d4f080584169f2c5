"""The first half minute with the package: from its wheel to an answer in a mailbox."""

from __future__ import annotations

import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.installation import build_wheel
from tests.project import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def test_wheel_has_every_file_of_the_package_and_no_other(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}

    files = [path for path in (ROOT / "mailapp").rglob("*") if path.is_file()]
    ours = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}
    assert packed == ours
    assert packed > {
        "mailapp/py.typed",
        "mailapp/migrations/0001_initial.py",
        "mailapp/static/mailapp/admin.css",
        "mailapp/templates/admin/mailapp/index.html",
        "mailapp/project_template/.gitignore",
        "mailapp/project_template/manage.py-tpl",
    }


def test_wheel_names_what_it_needs(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = HeaderParser().parsestr(archive.read(name).decode())

    needed = {Requirement(each) for each in metadata.get_all("Requires-Dist", [])}
    wanted = (ROOT / "requirements.txt").read_text().splitlines()
    assert {each for each in needed if "extra" not in str(each.marker)} == {
        Requirement(line) for line in wanted if not line.startswith("#")
    }
    assert metadata["License-Expression"] == "BSD-3-Clause"
