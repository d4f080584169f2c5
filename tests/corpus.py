"""Messages that nobody on this project wrote, where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = Path(os.environ.get("MAIL_CORPUS") or ROOT.parent / "shared" / "corpus")

REASON = f"there is no {FOLDER}; MAIL_CORPUS may name another folder"

needs_corpus = pytest.mark.skipif(not (FOLDER / "MESSAGES.txt").exists(), reason=REASON)


def messages() -> list[Path]:
    """Return every file of the corpus that is a whole mail; none without a corpus."""
    index = FOLDER / "MESSAGES.txt"
    return [FOLDER / line for line in index.read_text().splitlines()] if index.exists() else []
