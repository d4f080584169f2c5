"""The first half minute with the package: from its wheel to an answer in a mailbox."""

from __future__ import annotations

import os
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.installation import build_wheel, install
from tests.project import ROOT
from tests.reader import reading

pytestmark = pytest.mark.any_database


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


def test_newcomer_has_an_answer_in_half_a_minute(wheel: Path, tmp_path: Path):
    programs = install(wheel, tmp_path / ".venv")
    with reading(tmp_path) as newcomer:
        newcomer.environment["PATH"] = f"{programs}:{os.environ['PATH']}"
        del newcomer.environment["PYTHONPATH"]
        where = newcomer.type("python -c 'import mailapp; print(mailapp.__file__)'")
        assert where.startswith(str(tmp_path / ".venv"))

        newcomer.type("python -m mailapp startmail mymail")
        newcomer.type("cd mymail")
        newcomer.type("python manage.py migrate")
        newcomer.type("python manage.py runmail --detach")
        assert "9 passed" in newcomer.type("python -W error -m pytest")
        newcomer.type("python manage.py sendtest --to guestbook@localhost --from you@example.com")
        newcomer.wait_for_the_mail()
        [answer] = newcomer.caught()
        assert "Subject: Who are you?" in answer
        assert "NAMING" in newcomer.type(
            "python manage.py mailroutes guestbook@localhost --from you@example.com"
        )
        newcomer.type("python manage.py stopmail")
        assert not newcomer.runs()
