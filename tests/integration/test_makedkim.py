"""The command that makes a key for DKIM."""

from __future__ import annotations

import ast
import re
import stat
import sys
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command, execute_from_command_line

from mailapp import conf, signing
from tests.signatures import verdicts

RAW = b"From: you@example.com\r\n\r\nHello.\r\n"


@pytest.fixture
def file(settings, tmp_path) -> Path:
    settings.MAIL = {**settings.MAIL, "RUN_DIR": str(tmp_path)}
    return tmp_path / "dkim" / "2026.example.com.pem"


@pytest.mark.parametrize("kind", [[], ["--ed25519"]], ids=["rsa", "ed25519"])
def test_mail_verifies_when_one_does_as_it_says(file, settings, capsys, kind):
    call_command("makedkim", "example.com", "2026", *kind)

    said = capsys.readouterr().out
    [(name, strings)] = re.findall(r"^(\S+)\. TXT (.*)$", said, re.MULTILINE)
    parts = re.findall(r'"([^"]*)"', strings)
    settings.MAIL |= {"DKIM": ast.literal_eval(said.partition('MAIL["DKIM"] = ')[2])}
    conf.mail_settings.cache_clear()
    assert max(map(len, parts)) <= 255
    assert verdicts(signing.signed(RAW), {name: "".join(parts)}) == [True]


def test_key_that_the_settings_name_already_can_be_made(file, settings):
    settings.MAIL |= {"DKIM": {"example.com": {"2026": str(file)}}}

    execute_from_command_line(["manage.py", "makedkim", "example.com", "2026"])

    assert file.exists()


def test_key_is_readable_by_its_owner_alone(file):
    call_command("makedkim", "example.com", "2026")

    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_key_that_is_there_stays_and_its_record_is_printed_again(file, capsys):
    call_command("makedkim", "example.com", "2026")
    key, made = file.read_bytes(), capsys.readouterr().out

    call_command("makedkim", "example.com", "2026")

    assert file.read_bytes() == key
    assert capsys.readouterr().out == made.replace("Made", "Kept")


def test_file_that_is_no_key_stays_as_it_is(tmp_path):
    (tmp_path / "notes").write_text("no key")

    with pytest.raises(CommandError, match="notes"):
        call_command("makedkim", "example.com", "2026", file=str(tmp_path / "notes"))

    assert (tmp_path / "notes").read_text() == "no key"


def test_want_of_the_extra_is_told_with_how_to_have_it(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "mailapp.dkim", None)

    with pytest.raises(CommandError, match=r'pip install "lamson-django\[dkim\]"'):
        call_command("makedkim", "example.com", "2026")

    assert not file.exists()


def test_domain_that_mail_settings_would_refuse_is_refused():
    with pytest.raises(CommandError, match=r"'Example\.com' is not a domain"):
        call_command("makedkim", "Example.com", "2026")
