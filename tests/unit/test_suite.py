"""What the tests themselves stand on: the machine they run on may be slow, shared, and bare."""

from __future__ import annotations

import ast
import os
import sys
from itertools import takewhile

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
