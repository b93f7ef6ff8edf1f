"""What others build on: the public names, the one-way imports, pure start-up."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

import factedit
from conftest import ROOT

SOURCES = sorted((ROOT / "src" / "factedit").rglob("*.py"))


def test_public_names_are_frozen() -> None:
    assert sorted(factedit.__all__) == sorted(
        [
            "Edit", "EditRequest", "EditableModel", "EditedModel", "FactRecord", "FacteditError", "KnownFact",
            "Measures", "Moments", "ResultStore", "RomeSettings", "SecondMoment", "TraceResult", "apply", "audit",
            "average", "evaluate_methods", "load", "load_dataset", "load_edited", "log", "make_method", "push",
            "read_state", "revert", "score", "select", "ship", "show", "trace_fact", "trace_facts", "verify",
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


SHARED_NAMES = {  # what several modules define under one name, and why that is one meaning
    **dict.fromkeys(("find", "read", "write"), "what a kind of quantised weights does; see `files/quantised/kind.py`"),
    **dict.fromkeys(("csv_text", "markdown", "render"), "a report as text, in a module for each report"),
    "logger": "the package's logger, as `logging` has it",
    "product": "x Wᵀ + b, computed in two ways",
}


def _public_names(path: Path) -> set[str]:
    """Functions, classes and types; a command and the page's jobs are called as the function that they call."""
    module = path.relative_to(ROOT / "src" / "factedit").as_posix()
    body = ast.parse(path.read_text()).body
    names = {target.id for node in body if isinstance(node, ast.Assign)
             for target in node.targets if isinstance(target, ast.Name)}  # fmt: skip
    if not module.startswith("cli/") and module != "web/actions.py":
        names |= {node.name for node in body if isinstance(node, ast.FunctionDef)}
    names |= {node.name for node in body if isinstance(node, ast.ClassDef)}
    return {name for name in names if name != name.upper() and not name.startswith("_")}


def test_a_public_name_has_one_meaning() -> None:
    counts = Counter(name for path in SOURCES for name in _public_names(path))
    assert {name for name, count in counts.items() if count > 1} == SHARED_NAMES.keys()


VAGUE = {"found", "own"}  # names that do not say what they hold


def _vague_names(tree: ast.AST) -> set[tuple[int, str]]:
    """Variables and arguments of these names with their lines, however they are bound; attributes may be called so."""
    lines = [line for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for line in node.body]
    fields = {id(line.target) for line in lines if isinstance(line, ast.AnnAssign)}
    fields |= {id(target) for line in lines if isinstance(line, ast.Assign) for target in line.targets}
    bound: set[tuple[int, str]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in fields:
            bound.add((node.lineno, node.id))
        elif isinstance(node, ast.arg):
            bound.add((node.lineno, node.arg))
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
            bound.add((node.lineno, node.name or ""))
        elif isinstance(node, ast.MatchMapping):
            bound.add((node.lineno, node.rest or ""))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {(node.lineno, alias.asname or alias.name) for alias in node.names}
    return {(line, name) for line, name in bound if name in VAGUE}


@pytest.mark.parametrize(
    "text",
    [
        "found = 1", "found: int = 1", "own += 1", "a, (own, *b) = c", "a, *found = c", "[b for own, b in a]",
        "{c: 1 for c in (b for found in a)}", "for own in a: pass", "with a as (found, b): pass",
        "while (own := f()): pass", "f(key=lambda own: own)", "def f(own, /): pass", "def f(*, found=None): pass",
        "def f(*own): pass", "async def f(**found): pass", "class A:\n def f(self):\n  own = 1",
        "try: pass\nexcept E as own: pass", "from a import b as found",
        "match a:\n case [1, *own]: pass", "match a:\n case {'b': 1, **found}: pass",
        "match a:\n case int() as own: pass", "class A:\n b = [1 for own in c]",
    ],
)  # fmt: skip
def test_a_vague_name_is_seen_however_it_is_bound(text: str) -> None:
    assert {name for _, name in _vague_names(ast.parse(text))} & VAGUE


def test_attributes_keywords_and_words_may_be_called_so() -> None:
    text = "class A:\n own: int = 0\n found = ()\nf(own=1, found=a.found)\na.own = 'found'\n"
    assert not _vague_names(ast.parse(text))


def test_variables_say_what_they_hold() -> None:
    """No variable and no argument is called `found` or `own`, anywhere."""
    told = [f"{path.relative_to(ROOT)}:{line} {name}" for path in SOURCES
            for line, name in sorted(_vague_names(ast.parse(path.read_text(encoding="utf-8"))))]  # fmt: skip
    assert not told


NO_VERBS = {  # words that docstrings began with where a verb was to come
    "A", "All", "An", "As", "Before", "C", "Each", "Every", "Everything", "For", "How", "In", "Is", "It", "Its",
    "Log", "Mean", "No", "Nobody", "Of", "One", "Per", "Row", "Some", "That", "The", "Their", "This", "Those",
    "Token", "Value", "What", "Where", "Whether", "Which", "Why", "With", "ΔW",
}  # fmt: skip


def test_what_a_function_does_is_said_by_a_verb() -> None:
    """The first word of a public function's docstring; what a property is needs none."""
    begun: dict[str, str] = {}
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef))]
        for node in (node for body in bodies for node in body if isinstance(node, ast.FunctionDef)):
            said = ast.get_docstring(node)
            is_property = any("property" in ast.unparse(one) for one in node.decorator_list)
            if said and not is_property and not node.name.startswith("_"):
                begun[f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"] = said.split()[0].rstrip(",.:;")
    assert len(begun) > 1000
    assert not {where: word for where, word in begun.items() if word in NO_VERBS or not word[0].isupper()}


def test_files_stay_short() -> None:
    long = {str(path.relative_to(ROOT)): n for path in SOURCES if (n := len(path.read_text().splitlines())) > 300}
    assert not long, "look for the second thing living in it"


def test_every_top_level_module_has_its_place_in_the_layers() -> None:
    """The contract is exhaustive, and a report, an export or an account needs nothing of the jobs above them."""
    [contract] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert contract["exhaustive"] is True
    layers = [{name.strip(" ()") for name in layer.split("|")} for layer in contract["layers"]]
    top = {path.relative_to(ROOT / "src" / "factedit").parts[0].removesuffix(".py") for path in SOURCES}
    assert top - {"__init__"} <= set().union(*layers)
    order = {name: n for n, layer in enumerate(layers) for name in layer}
    assert order["cli"] < order["work"] < order["report"] <= order["account"] < order["evaluate"] < order["edit"]


def test_the_lists_of_public_names_agree() -> None:
    """What type checkers see is imported from where the names are loaded, and the same names are public."""
    tree = ast.parse(Path(factedit.__file__).read_text())
    [checking] = [n for n in tree.body if isinstance(n, ast.If) and any(isinstance(i, ast.ImportFrom) for i in n.body)]
    seen = {
        alias.asname: node.module
        for node in checking.body if isinstance(node, ast.ImportFrom)
        for alias in node.names if alias.asname == alias.name
    }  # fmt: skip
    assert seen == factedit._HOME
    assert sorted(factedit._HOME) == factedit.__all__ == sorted(factedit.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        factedit.laod  # noqa: B018


def test_a_type_checker_sees_the_real_types(tmp_path: Path) -> None:
    """mypy on a user's three lines: the types of the package, and a misspelt name is found."""
    (tmp_path / "user.py").write_text(
        "from factedit import load, trace_fact, laod\n"
        "reveal_type(load('gpt2'))\n"
        "reveal_type(trace_fact(load('gpt2'), 'a b', 'a', noise=0.1).peak('mlp'))\n"
    )
    heavy = ("torch", "transformers", "numpy", "matplotlib", "rich", "jinja2", "pydantic", "safetensors", "gguf")
    skipped = "".join(f"[mypy-{name}.*]\nfollow_imports = skip\n" for name in heavy)
    (tmp_path / "mypy.ini").write_text(f"[mypy]\n{skipped}")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", tmp_path / "cache", "user.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "MYPYPATH": str(ROOT / "src")},
    )  # fmt: skip
    own = [line for line in done.stdout.splitlines() if line.startswith("user.py")]
    assert [line.partition(" [")[0].partition(";")[0].rstrip() for line in own] == [
        'user.py:1: error: Module "factedit" has no attribute "laod"',
        'user.py:2: note: Revealed type is "factedit.models.adapter.EditableModel"',
        'user.py:3: note: Revealed type is "tuple[int, int]"',
    ], done.stdout + done.stderr
    assert (Path(factedit.__file__).parent / "py.typed").is_file()


def test_readme_code_names_exist() -> None:
    text = Path(ROOT / "README.md").read_text()
    block = text.split("```python\n")[1].split("```")[0]
    tree = ast.parse(block)
    imported = [a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names]
    assert imported
    assert set(imported) <= set(factedit.__all__)
