"""docs/support-desk.md, step by step: its files are written, its commands run, its tests pass."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project import HOST, free_ports
from tests.snippets import ROOT, Snippet, snippets
from tests.waiting import DEADLINE, wait_until

pytestmark = pytest.mark.any_database

PAGE = "docs/support-desk.md"
STOP = "python manage.py stopmail"


class Reader:
    """Somebody who types what the chapter says, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        receiver, catcher, web = (f"{HOST}:{port}" for port in free_ports(3))
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "MAIL_RECEIVER": receiver,
            "MAIL_RELAY": catcher,
            "MAIL_CATCHER": catcher,
            "WEB": web,
        }

    def follow(self, snippet: Snippet) -> None:
        """Make the file that a snippet is, or type its commands."""
        if snippet.title:
            name, _, at_its_end = snippet.title.partition(", ")
            self.write(self.folder / name, snippet.text, "a" if at_its_end else "w")
        elif snippet.language == "sh":
            for command in snippet.text.splitlines():
                self.type(command)

    def write(self, file: Path, text: str, mode: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open(mode) as opened:
            opened.write(text)

    def type(self, command: str) -> None:
        """Run a command to its end; fail if it does."""
        if command.startswith("cd "):
            self.folder /= command.removeprefix("cd ")
            return
        if command == STOP:
            wait_until(lambda: len(self.caught()) == 2)
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=4 * DEADLINE,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    def caught(self) -> list[Path]:
        """What the desk has sent."""
        return list((self.folder / "run/queue/new").glob("*"))


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    yield reader
    if (reader.folder / "manage.py").exists():
        subprocess.run(["bash", "-c", STOP], cwd=reader.folder, env=reader.environment, check=False)


def test_reader_of_the_chapter_has_a_desk_in_the_end(reader: Reader):
    for snippet in snippets(PAGE):
        reader.follow(snippet)

    assert sorted(
        letter.read_text().partition("\nTo: ")[2].split("\n")[0] for letter in reader.caught()
    ) == [
        "duty@example.com",
        "you@example.com",
    ]
