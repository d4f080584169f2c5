"""The benchmarks run and measure what they say; how fast is nobody's business here."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("receiving", ["kept connections, 4 kB", "a connection each, 4 kB"]),
        ("conversations", ["SQLite"]),
        ("backlog", ["bare loop, one transaction each", "worker, state and answer"]),
    ],
)
def test_each_benchmark_prints_its_rates(name, rows):
    arguments = ["--only", name, "--seconds", "0.01", "--database", "sqlite://"]

    program = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert program.returncode == 0, program.stderr
    for row in rows:
        assert re.search(rf"^{row} +[\d. ]*[1-9]", program.stdout, re.MULTILINE), program.stdout
