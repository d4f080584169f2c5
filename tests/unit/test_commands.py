"""What all commands have in common."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.core.management import CommandError, call_command, load_command_class

import mailapp.management.commands as commands

NAMES = sorted(each.stem for each in Path(commands.__file__).parent.glob("[a-z]*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_help_has_an_example(name):
    parser = load_command_class("mailapp", name).create_parser("manage.py", name)

    lines = parser.format_help().splitlines()
    said = " ".join(" ".join(lines).split())

    assert "example" in said.lower()
    assert f"manage.py {name}" in said.partition("xample")[2]
    assert all(line.count(f"manage.py {name}") <= 1 for line in lines)


@pytest.mark.parametrize("line", [*([name] for name in NAMES), ["mailqueue", "list"]])
def test_wrong_argument_gets_one_clear_line(line, capsys, monkeypatch):
    argv = ["manage.py", *line, "--no-such-option"]
    monkeypatch.setattr("sys.argv", argv)

    with pytest.raises(SystemExit) as ended:
        load_command_class("mailapp", line[0]).run_from_argv(argv)

    assert ended.value.code
    [said] = capsys.readouterr().err.splitlines()
    assert said.startswith(("Error: ", "sendmail: "))


@pytest.mark.parametrize(
    "line", [["stopmail"], ["maillog"], ["mailstatus"], ["replaymail", "README.md"]]
)
def test_misspelt_setting_is_said_of_commands_that_run_no_checks(settings, line):
    settings.MAIL = {**settings.MAIL, "HOST": ["example.com"]}

    with pytest.raises(
        CommandError, match=r'^MAIL\["HOST"\] is not a setting; did you mean "HOSTS"'
    ):
        call_command(*line)


def test_log_that_cannot_be_opened_is_said_of_what_is_to_go_to_the_background(settings, tmp_path):
    (tmp_path / "logs").touch()
    settings.MAIL = {**settings.MAIL, "LOG_DIR": str(tmp_path / "logs")}

    with pytest.raises(CommandError, match=f"^{tmp_path}/logs/maillog-8899.log: File exists$"):
        call_command("maillog", "--detach")
