"""The list of mutants holds what is in the code and in the tests now (running them takes minutes: docs/mutants.py)."""

from __future__ import annotations

import runpy
from typing import Any

import pytest

from conftest import ROOT

FOUND: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "mutants.py"))


@pytest.mark.parametrize("mutant", FOUND["MUTANTS"], ids=lambda mutant: mutant.promise)
def test_the_line_is_there_once_and_so_is_the_test(mutant: Any) -> None:
    text = (ROOT / "src" / "factedit" / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1
    assert mutant.new not in text or mutant.new in mutant.old
    path, _, name = mutant.test.partition("::")
    assert f"def {name}(" in (ROOT / "tests" / path).read_text(encoding="utf-8")


def test_the_page_is_written_from_the_list() -> None:
    assert (ROOT / "docs" / "mutants.md").read_text(encoding="utf-8") == FOUND["table"]()
