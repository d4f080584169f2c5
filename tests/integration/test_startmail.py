"""The command that makes a project of the user's own."""

from __future__ import annotations

import io
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

import mailapp
from mailapp.conf import problems


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the command is called in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def startmail(*arguments: str) -> str:
    """Call the command and return what it printed."""
    output = io.StringIO()
    call_command("startmail", *arguments, stdout=output)
    return output.getvalue()


def test_project_is_made_in_a_folder_of_its_name_and_is_told_what_to_type(here: Path):
    said = startmail("mymail")

    assert {each.name for each in (here / "mymail").iterdir()} == {
        *{".gitignore", "README.md", "manage.py", "muttrc", "pyproject.toml", "requirements.txt"},
        *{"guestbook", "logs", "mymail", "run", "tests"},
    }
    assert "cd mymail\n  python manage.py migrate\n" in said


def test_nothing_of_the_template_is_left_unfilled(here: Path):
    startmail("mymail")

    files = [each for each in here.rglob("*") if each.is_file() and each.suffix != ".msg"]
    assert [file for file in files if "{{ " in file.read_text()] == []
    assert [file for file in files if "project_name" in str(file) or "-tpl" in str(file)] == []
    assert f"lamson-django>={mailapp.__version__}" in (here / "mymail/requirements.txt").read_text()


def test_code_is_as_ruff_wants_it(here: Path):
    pytest.importorskip("ruff", reason="make check installs it")
    startmail("mymail")

    for check in (["check"], ["format", "--diff"]):
        ruff = subprocess.run(
            [sys.executable, "-m", "ruff", *check, "mymail"], capture_output=True, text=True
        )
        assert ruff.returncode == 0, ruff.stdout + ruff.stderr


def test_mutt_is_set_up_as_in_this_project_but_for_the_environment_that_is_active(here: Path):
    startmail("mymail")

    ours = (Path(mailapp.__file__).parents[1] / "muttrc").read_text()
    assert "env .venv/bin/python " in ours
    assert (here / "mymail/muttrc").read_text() == ours.replace(".venv/bin/python", "python")


def test_each_project_has_a_key_of_its_own(here: Path):
    startmail("one")
    startmail("two")

    one, two = ((here / name / name / "settings.py").read_text() for name in ("one", "two"))
    assert "django-insecure-" in one
    assert one.replace("one", "two") != two


def settings_of(project: Path) -> dict[str, Any]:
    """What the settings of a project are in this environment."""
    return runpy.run_path(str(project / project.name / "settings.py"))


def test_smart_hosts_of_the_environment_are_parted_by_commas(
    here: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MAIL_RELAY", "smtp://you@one.example.com, smtp://you@two.example.com")
    monkeypatch.setenv("MAIL_RELAY_PASSWORD", "secret")
    startmail("mymail")

    mail = settings_of(here / "mymail")["MAIL"]

    assert mail["RELAY"] == ["smtp://you@one.example.com", "smtp://you@two.example.com"]
    assert problems(mail) == []
    assert mail["RELAY_PASSWORD"] == "secret"


@pytest.mark.parametrize(("value", "is_on"), [("1", True), ("0", False), ("", False)])
def test_log_goes_to_files_where_the_environment_says_so(
    here: Path, monkeypatch: pytest.MonkeyPatch, value: str, is_on: bool
):
    monkeypatch.setenv("LOG_FILES", value)
    startmail("mymail")

    assert ("mail" in settings_of(here / "mymail")["LOGGING"]["handlers"]) == is_on


def test_mail_is_for_the_eyes_of_its_owner_alone(here: Path):
    startmail("mymail")

    for folder in ("run", "logs"):
        assert (here / "mymail" / folder).stat().st_mode & 0o777 == 0o700


def test_project_goes_into_a_new_folder_or_an_empty_one(here: Path):
    (here / "empty").mkdir()

    startmail("mymail", "empty")
    startmail("mymail", "new/one")

    assert (here / "empty/mymail/settings.py").exists()
    assert (here / "new/one/mymail/settings.py").exists()


def test_empty_folder_of_its_name_will_do(here: Path):
    (here / "mymail").mkdir()

    startmail("mymail")

    assert (here / "mymail/manage.py").exists()


def test_folder_with_something_in_it_is_left_as_it_is(here: Path):
    (here / "mymail").mkdir()
    (here / "mymail/notes").write_text("Mine.")

    with pytest.raises(CommandError, match=r"^mymail is not empty: name a new folder.$"):
        startmail("mymail")

    assert [each.name for each in (here / "mymail").iterdir()] == ["notes"]


def test_file_is_no_folder(here: Path):
    (here / "mymail").write_text("Mine.")

    with pytest.raises(CommandError, match=r"^mymail cannot be made: File exists$"):
        startmail("mymail")


@pytest.mark.parametrize("name", ["my-mail", "2mail", "", "my.mail", "class", "../mail", "größe"])
def test_what_cannot_name_a_package_is_refused(here: Path, name: str):
    with pytest.raises(CommandError, match="cannot name a Python package"):
        startmail(name)

    assert not list(here.iterdir())


@pytest.mark.parametrize("name", ["email", "django", "mailapp", "guestbook", "tests", "manage"])
def test_name_of_another_module_is_refused(here: Path, name: str):
    with pytest.raises(CommandError, match="is the name of another module"):
        startmail(name)

    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "COMMAND, one of: mailversion, startmail"),
        (["sendtest"], "COMMAND, one of: mailversion, startmail"),
        (["startmail"], "Give the project a name"),
        (["startmail", "my-mail"], "CommandError: 'my-mail' cannot name"),
    ],
)
def test_program_without_a_project_says_in_one_line_what_is_wrong(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    from mailapp.__main__ import main

    with pytest.raises(SystemExit) as exited:
        main(arguments)

    complaint = str(exited.value.code) if said.startswith("COMMAND") else capsys.readouterr().err
    assert exited.value.code != 0
    assert said in complaint.splitlines()[-1]
