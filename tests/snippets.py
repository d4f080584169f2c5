"""The fenced blocks of the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(
    r'^```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
_COMMAND = re.compile(r"(?:python -m mailapp|(?:python )?manage\.py) ")


@dataclass(frozen=True)
class Snippet:
    """One block: where it is, what it is written in, and the file that it is, if any."""

    page: str
    line: int
    language: str
    title: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """What is to be typed: all of `sh`, and our commands that stand above what they print."""
        lines = self.text.replace("\\\n", "").splitlines()
        if self.language == "sh":
            return [line for line in lines if line.strip()]
        return [line for line in lines if not self.language and _COMMAND.match(line)]


def snippets(page: str) -> Iterator[Snippet]:
    """Yield the blocks of a page, named from the root of the project, in order."""
    text = (ROOT / page).read_text()
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Snippet(page, line, found["language"], found["title"] or "", found["text"])
