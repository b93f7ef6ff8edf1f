"""Every public name has its sentence: in the glossary, or on the site's page of what there is."""

from __future__ import annotations

import ast
import re

import pytest

import factedit
from conftest import ROOT
from factedit.edit.method_table import METHODS
from factedit.evaluate.benchmarks.table import BENCHMARKS
from factedit.evaluate.column import COSTS
from factedit.evaluate.metrics.table import METRICS
from factedit.evaluate.whole import COLUMNS
from site_pages import module

SOURCE = ROOT / "src" / "factedit"
ENTRIES = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| word ")
]
ENTERED = " | ".join(entry[0] for entry in ENTRIES)  # what stands left, not what is said of it


@pytest.fixture(scope="module")
def lists() -> str:
    return module("pages").lists()["lists.md"]


def settings_of(path: str) -> dict[str, list[str]]:
    """The settings of every class in a file, read off its text: annotated names of classes called …Settings."""
    text = (SOURCE / path).read_text(encoding="utf-8")
    classes = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)] if "Settings(" in text else []
    return {
        node.name: [n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
        for node in classes if node.name.endswith("Settings")
    }  # fmt: skip


def test_an_entry_has_two_cells_and_one_place() -> None:
    assert len(ENTRIES) > 100
    assert all(len(entry) == 2 and all(entry) for entry in ENTRIES)
    words = [entry[0] for entry in ENTRIES]
    assert sorted({word for word in words if words.count(word) > 1}) == []


@pytest.mark.parametrize("name", sorted(set(factedit.__all__)))
def test_a_public_name_is_a_word_of_the_glossary(name: str) -> None:
    assert re.search(rf"`{name}`", ENTERED), "classes and functions stand in code font at the word that they are"


def test_what_is_told_of_a_whole_model_and_of_costs_is_in_the_glossary() -> None:
    for column in (*COLUMNS, *COSTS):
        assert re.search(rf"\b{column.name}\b", ENTERED), column.name


def test_methods_metrics_benchmarks_and_their_scores_are_listed(lists: str) -> None:
    for name in METHODS:
        assert f"| `{name}` |" in lists, name
    for name, row in (METRICS | BENCHMARKS).items():
        assert f"### {name}\n\n{row.what}" in lists, name
    scores = [(c.name, c.what) for one in METRICS.values() for c in one.columns]
    scores += [(c.name, c.what) for one in BENCHMARKS.values() for c in one.scores]
    assert len(scores) > 50
    for name, what in scores:
        assert f"| `{name}` | {what} |" in lists, name


def test_every_setting_of_a_method_is_listed_with_what_it_is(lists: str) -> None:
    """Those of a class and of the ones that it is made from, under its name; each with words of its docstring."""
    inner = lists.split("## Settings\n")[1].split("### ")[1:]
    tables = {part.split("\n")[0]: dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| (.*) \|$", part, re.M)) for part in inner}
    paths = [str(path.relative_to(SOURCE)) for room in ("edit", "train") for path in (SOURCE / room).rglob("*.py")]
    fields = {name: own for path in paths for name, own in settings_of(path).items() if own}
    assert len(fields) > 15
    for name, settings in fields.items():
        holders = [
            table for head, table in tables.items() if head == name or name in ("JointSettings", "HiddenSettings")
        ]
        assert holders, f"{name} has no table"
        for setting in settings:
            assert any(table.get(setting) for table in holders), f"{setting} of {name} has no sentence"


def test_a_method_stands_at_the_settings_that_it_takes(lists: str) -> None:
    inner = lists.split("## Settings\n")[1]
    without = {"ice", *(name for name in METHODS if name.partition("-")[0] in ("ke", "mend"))}
    assert set(re.findall(r"^- `([\w-]+)`: ", inner, re.M)) == METHODS.keys() - without
    assert "- `memory`: settings as in `RomeSettings`, and `gamma`." in inner
