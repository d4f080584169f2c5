"""Log lines: plain and JSON, whole, and not to be forged."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from mailapp.logs import JsonFormatter, LineFormatter, LogFile
from tests.project import ROOT

FORGERIES = ["\n", "\r\n", "\r", "\x0b", "\x85", "\u2028", "\x1b[2K\x1b[1G"]
FORGED = "2026-01-01 00:00:00,000 INFO    mailapp.way: mail 1 sent"


def record(message: str, *arguments: object, error: BaseException | None = None, **facts: object):
    made = logging.LogRecord(
        "mailapp.relay",
        logging.WARNING,
        __file__,
        1,
        message,
        arguments,
        error and (type(error), error, error.__traceback__),
    )
    made.created, made.msecs = 1_800_000_000.25, 250
    made.mail = facts
    return made


def test_line_has_time_level_logger_and_message():
    line = LineFormatter().format(record("Left alone for %g seconds", 2))

    time, _, rest = line.partition(",")
    assert time.startswith("2027-01-1")
    assert rest == "250 WARNING mailapp.relay: Left alone for 2 seconds"


@pytest.mark.parametrize("forgery", FORGERIES)
@pytest.mark.parametrize("formatter", [LineFormatter(), JsonFormatter()])
def test_text_of_strangers_begins_no_line(forgery, formatter):
    text = formatter.format(record("From %s", f"a{forgery}{FORGED}"))

    assert len(text.splitlines()) == 1
    assert text.isprintable()


@pytest.mark.parametrize("forgery", FORGERIES)
def test_exception_that_quotes_strangers_begins_no_line_like_a_record(forgery):
    error = ValueError(f"a{forgery}{FORGED}")

    _, *below = LineFormatter().format(record("It failed", error=error)).splitlines()

    assert below
    assert all(line.startswith("    ") for line in below)
    assert "ValueError: a" in below[0]


def test_letters_of_all_scripts_stay_readable_and_halves_of_pairs_do_no_harm():
    line = LineFormatter().format(record("für <用户@例え.jp>\ud83d\n"))

    assert line.endswith(r"für <用户@例え.jp>\ud83d\n")
    assert line.encode()


def test_url_of_a_mail_ends_its_line():
    line = LineFormatter().format(record("mail 1 sent", url="http://admin/1/"))

    assert line.endswith("mail 1 sent http://admin/1/")


def test_json_holds_the_facts_and_the_traceback():
    error = ValueError("no")

    entry = json.loads(JsonFormatter().format(record("mail %d", 12, error=error, mail=12)))

    assert entry.pop("process")
    assert entry == {
        "time": "2027-01-15T08:00:00.250Z",
        "level": "WARNING",
        "logger": "mailapp.relay",
        "message": "mail 12",
        "mail": 12,
        "error": "ValueError: no",
    }


# With a folder of logs; in a process of its own, since it is for the whole of a process.
PROGRAM = """
import logging, logging.config, sys
from pathlib import Path
from mailapp.logs import logging_settings

folder = Path(sys.argv[1])
logging.config.dictConfig(logging_settings(folder=folder))
logging.getLogger("mailapp.way").info("mail 1 accepted")
logging.getLogger("mailapp.receiver.protocol").info("Refused")
logging.getLogger("mailapp.relay.work").warning("Left alone")
logging.getLogger("shop.handlers.order").info("Ordered")
logging.getLogger("django.request").info("GET /")
(folder / "mail.log").rename(folder / "mail.log.1")
logging.getLogger("mailapp.way").info("mail 1 sent")
"""


def test_files_are_for_their_owner_and_opened_anew_when_they_were_moved(tmp_path: Path):
    folder = tmp_path / "logs"

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)], cwd=ROOT, capture_output=True, text=True
    )

    said = {
        file.name: [line.split(": ")[-1] for line in file.read_text().splitlines()]
        for file in folder.iterdir()
    }
    assert said == {
        "mail.log.1": ["mail 1 accepted", "Refused", "Left alone", "Ordered"],
        "mail.log": ["mail 1 sent"],
        "receiver.log": ["Refused"],
        "relay.log": ["Left alone"],
    }
    assert [line.split(": ")[-1] for line in done.stderr.splitlines()] == ["Left alone"]
    assert folder.stat().st_mode & 0o777 == 0o700


def test_log_that_cannot_be_opened_ends_nobody_and_goes_on_when_it_can(tmp_path: Path, capfd):
    log = LogFile(tmp_path / "mail.log", delay=True)
    (tmp_path / "mail.log").mkdir()

    log.handle(record("Told"))
    (tmp_path / "mail.log").rmdir()
    log.handle(record("Written"))
    log.close()

    assert capfd.readouterr().err == f"{tmp_path}/mail.log: Is a directory: Told\n"
    assert (tmp_path / "mail.log").read_text() == "Written\n"
