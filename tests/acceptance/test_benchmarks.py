"""The benchmarks run and measure what they say; how fast is nobody's business here."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.footprint import PEAK, PROC, megabytes, tree
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--seconds=0.01", "--stored=1000", "--large=2", "--idle=50", "--database=sqlite://"]


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("receiving", ["kept connections, 4 kB", "a connection each, 4 kB"]),
        ("receivers", ["SQLite, kept connections, 4 kB", "SQLite, a connection each, 4 kB"]),
        ("stored", ["SQLite"]),
        ("memory", ["2 messages of 25 MB at once.*", "a new transaction meanwhile.*"]),
        ("conversations", ["SQLite"]),
        ("backlog", ["state and answer, by hand", "state and answer, worker"]),
    ],
)
def test_each_benchmark_prints_its_figures(name, rows):
    program = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--only", name, *TINY],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert program.returncode == 0, program.stderr
    for row in rows:
        found = re.search(rf"^{row}((?: +[\d.]+)+)$", program.stdout, re.MULTILINE)
        assert found, program.stdout
        assert all(float(figure) > 0 for figure in found[1].split()), program.stdout


@pytest.mark.skipif(not PROC.exists(), reason="there is no /proc")
def test_memory_is_that_of_a_program_and_its_children():
    program = [sys.executable, "-c", "import subprocess; subprocess.run(['cat'])"]
    with subprocess.Popen(program, stdin=subprocess.PIPE) as parent:
        wait_until(lambda: len(list(tree(parent.pid))) == 2)
        _, child = tree(parent.pid)

        assert megabytes(parent.pid, PEAK) > megabytes(child, PEAK) > 0
