"""What others build on: the public names, the one-way imports, pure start-up."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import factedit
from conftest import ROOT

SOURCES = sorted((ROOT / "src" / "factedit").rglob("*.py"))


def test_public_names_are_frozen() -> None:
    assert sorted(factedit.__all__) == sorted(
        [
            "Edit", "EditRequest", "EditableModel", "FactRecord", "FacteditError", "KnownFact", "Measures", "Moments",
            "ResultStore", "RomeSettings", "SecondMoment", "TraceResult", "apply", "audit", "average",
            "evaluate_methods", "load", "load_dataset", "log", "make_method", "push", "revert", "score", "select",
            "ship", "show", "trace_fact", "trace_facts", "verify",
        ]
    )  # fmt: skip
    assert all(getattr(factedit, name) is not None for name in factedit.__all__)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, factedit; sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_pickle_no_remote_code_no_fixed_device() -> None:
    """No torch.load, no pickle, trust_remote_code never true, no device named outside the command line."""
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] + [getattr(node, "module", "") or ""]
                assert not {"pickle", "dill", "joblib"} & set(names), path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) != ("torch", "load"), path
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant), path
                assert node.value.value is False, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "cuda":
                raise AssertionError(f"{path}: a fixed device")


def test_every_module_says_what_it_is_for() -> None:
    for path in SOURCES:
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_files_stay_short() -> None:
    long = {str(path.relative_to(ROOT)): n for path in SOURCES if (n := len(path.read_text().splitlines())) > 300}
    assert not long, "look for the second thing living in it"


def test_every_top_level_folder_is_documented_in_the_layers() -> None:
    layers = (ROOT / "pyproject.toml").read_text()
    package = ROOT / "src" / "factedit"
    for folder in {path.relative_to(package).parts[0] for path in SOURCES if path.parent != package}:
        assert f'"{folder}' in layers or f" {folder}" in layers, f"{folder} is missing from the import contract"


def test_readme_code_names_exist() -> None:
    text = Path(ROOT / "README.md").read_text()
    block = text.split("```python\n")[1].split("```")[0]
    tree = ast.parse(block)
    imported = [a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names]
    assert imported
    assert set(imported) <= set(factedit.__all__)
