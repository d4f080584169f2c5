"""Runs each dialogue of `tests/dialogues`: `>` is what the client says, `<` how a reply begins.

After the last line the client hangs up; no further reply may have come.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.receiving import receiving

FOLDER = Path(__file__).parents[1] / "dialogues"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.smtp")), ids=lambda path: path.stem)
def test_dialogue(path: Path) -> None:
    with receiving() as receiver, receiver.connect() as client:
        for line in path.read_text().splitlines():
            text = line[2:].encode()
            if line.startswith(">"):
                client.send(text + b"\r\n")
            else:
                reply = client.read_reply()
                assert reply.startswith(text), f"{line!r}, but it was {reply!r}"
        client.half_close()
        assert client.is_closed()
