"""The first half minute with the package: from its wheel to an answer in a mailbox."""

from __future__ import annotations

import os
import shutil
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.installation import build_wheel, install
from tests.project import ROOT
from tests.reader import Reader, reading
from tests.snippets import snippets
from tests.terminal import EMPTY, ENTER, ESCAPE, LAST, mutt

#: What docs/index.md and the README of a project say, and what is typed here instead.
INSTEAD = {
    "python -m venv .venv": "",
    ". .venv/bin/activate": "",
    "pip install -r requirements.txt": "",
    "pip install /path/to/the/clone pytest pytest-django": "",
    "export MAIL_RECEIVER=127.0.0.1:8824 WEB=127.0.0.1:8001": "",
    "export MAIL_CATCHER=127.0.0.1:8898 MAIL_RELAY=127.0.0.1:8898": "",
    "python manage.py runmail": "python manage.py runmail --detach",
    "pytest": "python -W error -m pytest",
    "DEBUG=0 python manage.py check --deploy": "! DEBUG=0 python manage.py check --deploy 2>&1",
}
MUTT = "mutt -F muttrc"
ROUTES = "python manage.py mailroutes guestbook@localhost --from you@example.com"
SUBJECTS = {"Who are you?", "Please sign, Ada", "Thank you, Ada"}

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


def commands(page: str) -> list[str]:
    """What a page says is to be typed, in order."""
    said = [each for block in snippets(page) for each in block.commands]
    return [typed for each in said if (typed := INSTEAD.get(each, each))]


def subject(mail: str) -> str:
    return HeaderParser().parsestr(mail)["Subject"]


def use_mutt(newcomer: Reader) -> None:
    """As docs/mutt.md has it: write to nobody, then to the book as somebody new, and answer it."""
    with mutt(newcomer.folder, newcomer.environment, written="Grace") as terminal:
        terminal.wait_for("Please sign, Ada")
        terminal.press("m")
        terminal.wait_for("To:")
        terminal.press("nobody@localhost", ENTER)
        terminal.wait_for("Subject:")
        terminal.press("Hello", ENTER)
        terminal.wait_for("y:Send")
        terminal.press(ESCAPE, "f")
        terminal.wait_for("From:")
        terminal.press(EMPTY, "A Reader <reader@example.com>", ENTER)
        terminal.press("y")
        terminal.wait_for("nobody@localhost: 550 5.1.1 No such recipient here")

        terminal.press("q")
        terminal.wait_for("y:Send")
        terminal.press("t")
        terminal.wait_for("To:")
        terminal.press(EMPTY, "guestbook@localhost", ENTER)
        terminal.press("y")
        terminal.wait_for("New mail in this mailbox.")

        terminal.press(LAST, ENTER)
        terminal.wait_for("To: reader@example.com Subject: Who are you?")
        terminal.press("r")
        terminal.wait_for("y:Send")
        terminal.press("y")
        terminal.wait_for("i:Exit")
        terminal.press("i")
        terminal.wait_for("Please sign, Grace")


def test_newcomer_types_what_the_first_page_and_then_the_readme_say(wheel: Path, short_path: Path):
    programs = install(wheel, short_path / ".venv")
    with reading(short_path) as newcomer:
        newcomer.environment["PATH"] = f"{programs}:{os.environ['PATH']}"
        del newcomer.environment["PYTHONPATH"]

        for command in commands("docs/index.md"):
            if command != MUTT:
                newcomer.type(command)
            elif shutil.which("mutt"):
                use_mutt(newcomer)
        assert {subject(mail) for mail in newcomer.caught()} >= {"Who are you?", "Please sign, Ada"}

        readme = str(newcomer.folder / "README.md")
        said = {command: newcomer.type(command) for command in commands(readme)}
        newcomer.wait_for_the_mail()

        assert "9 passed" in said["python -W error -m pytest"]
        assert "returns the next state" in said[ROUTES]
        assert "security.W009" in said[INSTEAD["DEBUG=0 python manage.py check --deploy"]]
        assert {subject(mail) for mail in newcomer.caught()} >= SUBJECTS
        assert "START -> NAMING" in (newcomer.folder / "logs/mail.log").read_text()
        newcomer.type("python manage.py stopmail")
        assert not newcomer.runs()
        where = newcomer.type("python -c 'import mailapp; print(mailapp.__file__)'")
        assert where.startswith(str(short_path / ".venv"))
