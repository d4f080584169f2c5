"""Imports that are killed in the middle, and imports that are large."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mailapp.maildir import Maildir
from tests.project import ROOT

if TYPE_CHECKING:
    from tests.project import Project

MEBIBYTE = 1024 * 1024


def write_mbox(path: Path, mails: int, octets: int = 100) -> Path:
    with path.open("w") as file:
        for number in range(mails):
            file.write(f"From a@client.test Thu Jan  1 00:00:00 2026\nSubject: {number}\n\n")
            file.write("x" * octets + "\n\n")
    return path


def test_a_killed_import_goes_on_where_it_was(project: Callable[..., Project], tmp_path: Path):
    from mailapp.models import Delivery, Imported, Message

    ours = project()
    box = write_mbox(tmp_path / "box", 2500)

    ours.start("importmail", str(box), until="1000 of 2500").kill()
    done = ours.query(Message).count()
    again = ours.manage("importmail", str(box))

    assert 1000 <= done < 2500
    assert again.returncode == 0, again.stderr
    assert f"Imported {2500 - done} mails; {done} are there already." in again.stdout
    subjects = ours.query(Message).order_by("pk").values_list("subject", flat=True)
    assert list(subjects) == [str(number) for number in range(2500)]
    assert ours.query(Imported).count() == 2500
    assert ours.query(Delivery).filter(queue="imported", status="held").count() == 2500


@pytest.mark.any_database
def test_a_killed_import_into_a_maildir_goes_on_too(
    project: Callable[..., Project], tmp_path: Path
):
    ours = project()
    box = write_mbox(tmp_path / "box", 2500)
    target = ("--maildir", str(tmp_path / "Maildir"))

    ours.start("importmail", str(box), *target, until="1000 of 2500").kill()
    done = len(Maildir(tmp_path / "Maildir"))
    again = ours.manage("importmail", str(box), *target)

    assert 1000 <= done < 2500
    assert f"Imported {2500 - done} mails; {done} are there already." in again.stdout
    filled = Maildir(tmp_path / "Maildir")
    subjects = [filled[key]["Subject"] for key in filled.in_order()]
    assert subjects == [str(number) for number in range(2500)]


@pytest.mark.any_database
def test_a_large_import_takes_no_more_memory(project: Callable[..., Project], tmp_path: Path):
    ours = project()

    few = peak_memory(ours, write_mbox(tmp_path / "few", 50, octets=200_000))
    many = peak_memory(ours, write_mbox(tmp_path / "many", 300, octets=200_000))

    assert many - few < 16 * MEBIBYTE


def peak_memory(project: Project, box: Path) -> int:
    """Import a mailbox, and return how many octets that took at most."""
    process = subprocess.Popen(
        [sys.executable, "manage.py", "importmail", str(box)],
        cwd=ROOT,
        env=os.environ | project.environment,
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024
