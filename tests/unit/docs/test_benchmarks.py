"""The benchmarks start: each can be imported and says what it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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


def dry(program: str, out: Path, *asked: str) -> dict[str, Any]:
    """What a benchmark's small run writes."""
    command, here = [sys.executable, program, "--small", *asked, "--out", str(out)], {"OMP_NUM_THREADS": "1"}
    told = subprocess.run(
        command, cwd=ROOT / "benchmarks", env={**os.environ, **here}, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    written: dict[str, Any] = json.loads(out.read_text())
    return written


def test_the_script_for_accelerators_runs_on_a_processor(tmp_path: Path) -> None:
    """It asked a method for its second moment by a name that had gone."""
    told = dry("accelerator.py", tmp_path / "out.json", "--jobs", "edits,graph", "--batches", "1", "--records", "4")
    plain, captured = told["jobs"]
    assert plain["job"] == "ROME edits, 1 at once"
    assert all(row["seconds"] > 0 and row["share_of_peak"] > 0 for row in told["jobs"])
    assert captured["difference"] == 0, "on a processor the step is the same"


def test_a_layer_takes_what_its_plan_says(tmp_path: Path) -> None:
    told = dry("layer.py", tmp_path / "out.json", "--tokens", "16")
    assert told["read"]["bytes"] == told["read"]["planned_bytes"] == 4 * (2 * 256 * (256 + 32) + 3 * 256 * 896 + 512)
    for way in ("there", "back"):  # attention's own products on a processor are not in torch's counter
        assert told[way]["flops_over_plan"] == pytest.approx(1, rel=0.03)
    assert told["whole"]["trace"]["weights_gb"] == pytest.approx((80 * 3_344_384 + 4 * (128_256 + 1) * 256) / 1e9)
