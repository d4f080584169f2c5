"""docs/support-desk.md, step by step: its files are written, its commands run, its tests pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reader import STOP, reading
from tests.snippets import snippets
from tests.waiting import wait_until

pytestmark = pytest.mark.any_database


def test_reader_of_the_chapter_has_a_desk_in_the_end(short_path: Path):
    with reading(short_path) as reader:
        for snippet in snippets("docs/support-desk.md"):
            if STOP in snippet.commands:
                wait_until(lambda: len(reader.caught()) == 2)
            reader.follow(snippet)

    [to_duty] = [mail for mail in reader.caught() if "\nTo: duty@example.com\n" in mail]
    [to_customer] = [mail for mail in reader.caught() if "\nTo: you@example.com\n" in mail]
    assert "Subject: #1 Help" in to_duty
    assert "Subject: Your question #1 Help" in to_customer
