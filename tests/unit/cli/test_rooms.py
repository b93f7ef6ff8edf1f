"""The command line parses, calls a function of `work`, and shows; `work` prints nothing."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from conftest import ROOT

PACKAGE = ROOT / "src" / "factedit"
# commands that still compute by themselves; shrinks to nothing
OTHERS = {"edit", "evaluate", "ship", "stack"}
SHOWING = (
    "factedit.cli",
    "factedit.safe",
    "factedit.outputs",
    "factedit.web",
    "factedit.work",
    "factedit.report",
    "factedit.errors",
    "factedit.cache",
    "factedit.memory",
    "factedit.plugins",
    "factedit.text",
)


def imports(path: Path) -> set[str]:
    """The modules of factedit that a file imports when it runs, wherever in it."""
    tree = ast.parse(path.read_text())
    typing = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    aside = {id(inner) for block in typing for inner in ast.walk(block)}
    found = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and id(n) not in aside and n.module]
    return {n.module for n in found if n.module and n.module.startswith("factedit")}


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").glob("*.py")), ids=lambda path: path.stem)
def test_a_command_computes_nothing(path: Path) -> None:
    if path.stem in OTHERS:
        pytest.skip("computes by itself")
    below = {name for name in imports(path) if name != "factedit" and not name.startswith(SHOWING)}
    assert not below


@pytest.mark.parametrize("path", sorted((PACKAGE / "work").glob("*.py")), ids=lambda path: path.stem)
def test_a_job_neither_prints_nor_parses(path: Path) -> None:
    tree = ast.parse(path.read_text())
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert "print" not in called
    modules = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names} | {
        n.module.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module
    }
    streams = {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    assert not modules & {"rich", "typer", "click"}
    assert not streams & {"sys.stdout", "sys.stderr", "sys.stdin", "sys.exit"}
