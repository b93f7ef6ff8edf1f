"""What the tests themselves stand on: the machine they run on may be slow, shared, and bare."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT


def test_threads_wait_without_spinning() -> None:
    """torch reads how its threads wait once, when it is loaded; a spinning thread made commands 7 times dearer here."""
    lines = ast.parse((ROOT / "tests" / "conftest.py").read_text()).body
    first = list(takewhile(lambda line: "OMP_WAIT_POLICY" not in ast.unparse(line), lines))
    assert len(first) < len(lines)
    loaded = [line.module or "" for line in first if isinstance(line, ast.ImportFrom)]
    loaded += [name.name for line in first if isinstance(line, ast.Import) for name in line.names]
    assert {name.partition(".")[0] for name in loaded} <= sys.stdlib_module_names
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


PIP = """#!/bin/sh
echo "$@" >> {log}
case "$*" in
    *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python;;
    *"pip install"*{fails}*) test "$(grep -c -- '{fails}' {log})" -gt {times};;
    *"import gemma"*) false;;
esac
"""


@pytest.fixture
def stranger(tmp_path: Path) -> Callable[..., tuple[int, list[str], str]]:
    """Runs make in a fresh clone with a Python that only notes what it is asked for, and fails at a word so often."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)

    def run(fails: str, times: int, target: str = "test", *more: str) -> tuple[int, list[str], str]:
        log, python = tmp_path / "log", tmp_path / "python3.11"
        python.write_text(PIP.format(log=log, fails=fails, times=times))
        python.chmod(0o755)
        path = f"{tmp_path}:/usr/bin:/bin"
        command = ["make", "PAUSE=0", *more, target]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"PATH": path}, check=False)
        return done.returncode, log.read_text().splitlines() if log.exists() else [], done.stderr

    return run


def test_setup_asks_again_where_a_registry_fails_for_a_moment(stranger: Callable[..., Any]) -> None:
    code, asked, _ = stranger("test,docs", 2, "test")
    assert code == 0
    assert sum("test,docs" in line for line in asked) == 3
    assert asked[-1].startswith("-m pytest")
    code, asked_again, _ = stranger("test,docs", 99)
    assert code == 0, "what is installed is not asked for again"
    assert not any("test,docs" in line for line in asked_again[len(asked) :])


def test_setup_says_what_is_missing(stranger: Callable[..., Any], tmp_path: Path) -> None:
    code, asked, said = stranger("torch", 99, "test")
    assert code == 2
    assert sum("torch" in line for line in asked) == 3
    assert "Not installed: torch. pip says above what it did not get" in said
    assert not any("pytest" in line for line in asked)
    shutil.rmtree(tmp_path / ".venv")
    code, _, said = stranger("torch", 0, "test", "PYTHON=")
    assert (code, "No Python of 3.11 or later is on the path" in said) == (2, True)


def test_without_the_embedded_model_the_other_tests_run(stranger: Callable[..., Any]) -> None:
    code, asked, said = stranger("demo-model", 99, "test")
    assert (code, asked[-1].startswith("-m pytest")) == (0, True)
    assert "The embedded model is not here: 'make demo' needs it" in said


def test_the_python_is_one_that_runs(stranger: Callable[..., Any]) -> None:
    """Each is asked whether it is late enough; make takes the first."""
    code, asked, _ = stranger("nothing", 0)
    assert code == 0
    assert any(line.startswith("-c import sys, venv") for line in asked)
    assert any("-m venv .venv" in line for line in asked)
