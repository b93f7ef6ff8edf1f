"""The table of what the first reports found names tests that are there, and has something in every cell."""

from __future__ import annotations

import re

from conftest import ROOT

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
