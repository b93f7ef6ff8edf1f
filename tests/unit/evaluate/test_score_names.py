"""A score's name stands where the score is made, and nowhere else; every set of facts has a benchmark."""

from __future__ import annotations

import ast
import re

import pytest

from conftest import ROOT
from factedit.data.registry import DATASETS, load_facts
from factedit.evaluate.benchmarks.table import BENCHMARKS, find_benchmark
from factedit.evaluate.column import COSTS
from factedit.evaluate.metrics.table import METRICS
from factedit.evaluate.whole import COLUMNS as WHOLE
from factedit.report.verdict_rules import QUESTIONS

SOURCE = ROOT / "src" / "factedit"
OWN = (SOURCE / "evaluate" / "benchmarks", SOURCE / "evaluate" / "metrics")
RULES = SOURCE / "report" / "verdict_rules.py"  # one line per score: when it holds and when it fails
# words of the field that are also the names of zsRE's three scores: of the verdict's parts, of kinds of prompts
WORDS = {"efficacy", "paraphrase", "specificity"}


def names() -> set[str]:
    of_benchmarks = {column.name for benchmark in BENCHMARKS.values() for column in benchmark.scores}
    headlines = {benchmark.headline.name for benchmark in BENCHMARKS.values() if benchmark.headline}
    return (of_benchmarks | headlines | {c.name for metric in METRICS.values() for c in metric.columns}) - WORDS


def test_no_scores_name_elsewhere() -> None:
    """Neither alone nor inside a text of the program (docstrings and comments may speak of them)."""
    assert {"S", "ES", "NM", "GE", "RS", "free", "efficacy_tokens"} <= names()
    word = re.compile(rf"\b({'|'.join(sorted(names() - {'free', 'S'}))})\b")
    for path in sorted(SOURCE.rglob("*.py")):
        if path.is_relative_to(OWN[0]) or path.is_relative_to(OWN[1]) or path == RULES:
            continue
        tree = ast.parse(path.read_text())
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                assert node.value not in names(), f"{path}:{node.lineno}: {node.value!r}"
                assert not word.search(node.value), f"{path}:{node.lineno}: {node.value!r}"


SOMETHING_ELSE = {  # where a word that is also the name of a column stands for another thing, or in what holds it
    "evaluate/whole.py": {"perplexity", "panel", "moved"},
    "evaluate/column.py": {"seconds_per_edit", "peak_memory_mb"},
    "report/together.py": {"panel", "perplexity"},  # keys of `Harm.as_json`, a head of a table
    "evaluate/ability/harness.py": {"perplexity"},  # a measure of the harness
    "evaluate/ability/items.py": {"perplexity"},  # a task
    "work/damage.py": {"moved"},  # of one fact, by how much its answer's probability rose
    "strip.js": {"moved"}, "files.js": {"moved"},
    "cli/panel.py": {"panel"}, "cli/evaluate.py": {"panel"}, "cli/places.py": {"panel"}, "data/panel.py": {"panel"},
    "work/dry_studies.py": {"panel"},  # the command
}  # fmt: skip


def test_the_page_names_no_score() -> None:
    """What it draws and explains of a score it is told by the server."""
    known = {column.name for column in (*WHOLE, *COSTS)} - {"panel"}  # a class of its style
    word = re.compile(rf"\b(?:{'|'.join(sorted(names() - {'free', 'S', 'NS+', 'NKL+'}))})\b")
    scripts = [*(SOURCE / "web" / "static").glob("*.js"), *(SOURCE / "markup" / "drawings").glob("*.js")]
    assert len(scripts) > 20
    for path in sorted(scripts):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            said = set(word.findall(line)) | (known & set(re.findall(r"""["'`](\w+)["'`]""", line)))
            assert said <= SOMETHING_ELSE.get(path.name, set()), f"{path.name}:{number}: {said}"


def test_columns_of_a_whole_model_and_of_costs_are_named_once() -> None:
    known = {column.name for column in (*WHOLE, *COSTS)}
    assert len(known) == 5
    for path in sorted(SOURCE.rglob("*.py")):
        if path.is_relative_to(OWN[0]) or path.is_relative_to(OWN[1]):
            continue
        said = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)} & known
        assert said <= SOMETHING_ELSE.get(str(path.relative_to(SOURCE)), set()), path


def test_every_rule_of_the_verdict_is_about_a_score_that_is_made() -> None:
    costs = {"seconds_per_edit", "peak_memory_mb", *(column.name for column in WHOLE)}
    judged = {rule.score for question in QUESTIONS for rule in question.rules}
    assert judged <= names() | WORDS | costs


def test_only_zsre_and_readers_of_such_files_look_at_the_answer_of_a_neighbour() -> None:
    allowed = {"facts.py", "data/zsre.py", "data/field_files.py", "evaluate/benchmarks/zsre.py"}
    found = {str(p.relative_to(SOURCE)) for p in SOURCE.rglob("*.py") if "loc_answer" in p.read_text()}
    assert found == allowed


@pytest.mark.parametrize("row", [row for row in DATASETS.values() if row.kind == "facts"], ids=lambda row: row.name)
def test_every_set_of_facts_names_its_benchmark(row) -> None:  # type: ignore[no-untyped-def]
    assert find_benchmark(row.benchmark).name == row.benchmark


def test_a_set_brings_its_benchmark_along() -> None:
    data = load_facts("worldfacts")
    assert data.benchmark == "counterfact"
    assert not any(find_benchmark(data.benchmark).lacks(record) for record in data.records)


@pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=lambda benchmark: benchmark.name)
def test_a_benchmark_is_of_one_piece(benchmark) -> None:  # type: ignore[no-untyped-def]
    own = {column.name for column in benchmark.scores}
    assert set(benchmark.legs) <= own
    headline = {benchmark.headline.name} if benchmark.headline else set()
    metrics = {column.name for metric in METRICS.values() for column in metric.columns}
    assert set(benchmark.columns) <= own | headline | metrics, "every column of the table is computed by somebody"
    assert benchmark.dataset in DATASETS
    for row in benchmark.published:
        assert len(row.values) == len(benchmark.columns)
        assert row.method in ("unedited", *benchmark.methods)
