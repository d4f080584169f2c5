"""The benchmarks run and measure what they say; how fast is nobody's business here."""

import os
import re
import socket
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS
from benchmarks.footprint import PEAK, PROC, megabytes, tree
from tests.waiting import DEADLINE, wait_until

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    *("--seconds=0.01", "--rounds=1", "--backlog=20", "--stored=1000", "--old=200"),
    *("--large=2", "--idle=50", "--alone=2", "--posted=20"),
]
WITHOUT_SALMON = {**os.environ, "PIP_NO_INDEX": "1"}


def bench(*names: str, url: str) -> str:
    """Run benchmarks, as short as can be, and return what they print."""
    chosen = [f"--only={name}" for name in names]
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "--database", url, *chosen, *TINY],
        cwd=ROOT,
        env=WITHOUT_SALMON,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        try:
            printed, errors = program.communicate(timeout=300)
        except BaseException:
            program.terminate()  # not killed, so that it removes what it made
            raise
    assert program.returncode == 0, errors
    return printed


def figures(row: str, printed: str) -> list[float]:
    """Return the figures of the row that begins like this."""
    found = re.search(rf"^{row}((?: +(?:[\d.]+|-))+)$", printed, re.MULTILINE)
    assert found, printed
    return [float(figure) for figure in found[1].split() if figure != "-"]


#: Some of what each prints on SQLite; together they share one migrated database.
ROWS = {
    "receiving": ["kept connections, 4 kB", "a connection each, 4 kB"],
    "receivers": ["SQLite, kept connections, 4 kB", "SQLite, a connection each, 4 kB"],
    "stored": ["SQLite"],
    "memory": ["2 messages of 25 MB at once.*", "a new transaction meanwhile.*"],
    "conversations": ["SQLite, five sessions", "SQLite, twenty sessions"],
    "waking": ["from the final dot.*", "the same.*"],
    "backlog": ["state and answer, by hand", "one worker to by hand"],
    "sending": ["single mails, messages per second", "a post to a list, messages per second"],
    "cleaning": ["SQLite, nothing else", "SQLite, removing"],
    "engines": [],  # of PostgreSQL
}


def test_each_benchmark_prints_its_figures():
    printed = bench(*BENCHMARKS, url="sqlite://")

    assert ROWS.keys() == BENCHMARKS.keys()
    for row in chain.from_iterable(ROWS.values()):
        assert all(figure > 0 for figure in figures(row, printed)), printed


def test_celery_is_held_against_a_worker_of_ours(db):
    from django.db import connection

    if connection.vendor == "sqlite":
        pytest.skip("of PostgreSQL")

    printed = bench("engines", url=os.environ["DATABASE_URL"])

    local, celery, _, _ = figures("PostgreSQL", printed)
    assert local > 0
    assert celery > 0


@pytest.mark.skipif(not PROC.exists(), reason="there is no /proc")
def test_memory_is_that_of_a_program_and_its_children():
    program = [sys.executable, "-c", "import subprocess; subprocess.run(['cat'])"]
    with subprocess.Popen(program, stdin=subprocess.PIPE) as parent:
        wait_until(lambda: len(list(tree(parent.pid))) == 2)
        _, child = tree(parent.pid)

        assert megabytes(parent.pid, PEAK) > megabytes(child, PEAK) > 0


STARTER = """
import sys
from pathlib import Path
from benchmarks.harness import Installation

with Installation(Path(sys.argv[1]), {}).background("-c", sys.argv[2]) as process:
    process.wait()
"""
PROGRAM = "import socket; socket.create_connection({}).recv(1)"


def test_what_runs_in_the_background_ends_when_its_benchmark_is_killed(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(DEADLINE)
        program = PROGRAM.format(server.getsockname())
        with subprocess.Popen([sys.executable, "-c", STARTER, tmp_path, program], cwd=ROOT) as ours:
            line, _ = server.accept()
            ours.kill()

    with line:
        line.settimeout(DEADLINE)
        assert line.recv(1) == b""
