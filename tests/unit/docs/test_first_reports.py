"""The table of what the first reports found names tests that are there, and has something in every cell."""

from __future__ import annotations

import re

import pytest

from conftest import ROOT
from factedit import EditableModel

TABLE = ROOT / "docs" / "checks" / "first-reports.md"


def rows() -> list[list[str]]:
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if row[0] != "input"]


def test_every_test_that_the_table_names_is_there() -> None:
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^ *def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    named = set(re.findall(r"`(test_\w+)`", TABLE.read_text(encoding="utf-8")))
    assert len(named) > 150
    assert sorted(named - there) == []


def test_every_line_says_what_was_what_is_and_where_it_is_held() -> None:
    assert len(rows()) > 100
    for row in rows():
        assert len(row) == 4, row
        assert all(row), row
        assert "`test_" in row[3] or "`make check`" in row[3], row


def test_what_a_repository_brings_is_there() -> None:
    """What the field looks for in a repository, each with its essential line."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "Programming Language :: Python :: 3.11" in project["classifiers"]
    assert (ROOT / "CITATION.cff").read_text().startswith("cff-version:")
    for name in ("CONTRIBUTING.md", "SECURITY.md", "LICENSE", "NOTICE.md", "CHANGELOG.md"):
        assert (ROOT / name).stat().st_size > 200, name
    assert len(list((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md"))) >= 2


def test_code_of_the_guides_is_code_and_its_hooks_are_there() -> None:
    blocks = {
        path: "".join(re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
        for path in sorted((ROOT / "docs" / "for").glob("*.md"))
    }
    for path, block in blocks.items():
        compile(block, str(path), "exec")
    hooks = {name for block in blocks.values() for name in re.findall(r"model\.(on_\w+)\(", block)}
    assert hooks >= {"on_matrix", "on_output"}
    assert all(hasattr(EditableModel, name) for name in hooks)


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_who_types_all_of_a_page_is_never_told_that_something_is_there_already(page: str) -> None:
    """Every command and line of Python on it that writes writes to a place of its own."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"^```(?:bash|python)\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    places = re.findall(r"--out ([^\s&]+)|\.save\(\"([^\"]+)\"\)|apply\(model, \[edit\], \"([^\"]+)\"\)", blocks)
    written = ["".join(found) for found in places]
    assert len(written) >= 3
    assert len(written) == len(set(written)), written
    for read in re.findall(r"factedit (?:verify|revert|check|log) +(\w[\w/-]*)", blocks):
        assert read in written, f"{read} is read and nothing wrote it"
