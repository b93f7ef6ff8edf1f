"""The benchmarks start: each can be imported and says what it takes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from conftest import ROOT

PROGRAMS = sorted(path.name for path in (ROOT / "benchmarks").glob("*.py") if "argparse" in path.read_text())


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_benchmark_starts(program: str) -> None:
    told = subprocess.run(
        [sys.executable, program, "--help"],
        cwd=ROOT / "benchmarks", env={**os.environ, "COLUMNS": "100"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert "--help" in told.stdout
