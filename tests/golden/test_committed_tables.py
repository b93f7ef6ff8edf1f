"""The committed tables of docs/results follow from the committed rows, to the character, and these are still found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from factedit.cli.common import without_nan
from factedit.evaluate.benchmarks.table import find_benchmark
from factedit.evaluate.metrics.table import FLUENCY, METRICS
from factedit.evaluate.run import Evaluation, summary_of
from factedit.evaluate.store import ResultStore
from factedit.report.paper import csv_text, markdown

RESULTS = ROOT / "docs" / "results"
SETS = {"counterfact": ("counterfact-gemma3-270m", 273, 16), "zsre": ("zsre-gemma3-270m", 500, None)}


@pytest.fixture(params=SETS)
def which(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(which: str, tmp_path: Path) -> ResultStore:
    """A copy of the committed rows."""
    shutil.copy(RESULTS / SETS[which][0] / "results.sqlite", tmp_path / "r.sqlite")
    return ResultStore(tmp_path / "r.sqlite")


def committed(which: str, file: str) -> str:
    return (RESULTS / SETS[which][0] / file).read_text()


def ids_of(store: ResultStore, count: int) -> list[str]:
    return next(ids for _, ids, _ in store.selections() if len(ids) == count)


def evaluation(store: ResultStore, runs: Mapping[str, str], ids: list[str], which: str) -> Evaluation:
    benchmark, known = find_benchmark(which), store.runs()
    stored = {name: store.results(run) for name, run in runs.items()}
    results = {name: {case: rows[case] for case in ids} for name, rows in stored.items()}
    summary = {name: summary_of(list(rows.values()), benchmark) for name, rows in results.items()}
    return Evaluation(summary, results, {name: known[run][1] for name, run in runs.items()}, benchmark)


def runs_of(store: ResultStore, settings: Mapping[str, Any], *, with_texts: bool) -> dict[str, str]:
    """Per row of the table its newest run, over all records or over those with sampled texts."""
    return {
        name: run
        for run, (name, own) in store.runs().items()
        if name in settings
        and own.get("settings") == settings[name].get("settings")
        and bool(own["generation_tokens"]) == with_texts
    }


def test_the_tables_follow_from_the_rows(which: str, store: ResultStore) -> None:
    told = json.loads(committed(which, "table.json"))
    _, count, texts = SETS[which]
    with store:
        found = evaluation(store, runs_of(store, told["settings"], with_texts=False), ids_of(store, count), which)
        summary = found.summary
        if texts:
            runs = runs_of(store, told["settings"], with_texts=True)
            part = evaluation(store, runs, ids_of(store, texts), which).summary
            columns = [column.name for name in FLUENCY for column in METRICS[name].columns]
            summary = {m: row | {c: part[m][c] for c in columns} for m, row in summary.items()}
    found = replace(found, summary={method: summary[method] for method in told["rows"]})
    rows = without_nan(found.as_json())
    assert json.dumps(rows) == json.dumps(told["rows"])
    memory = {method: row["peak_memory_mb"] for method, row in rows.items()}
    text = markdown(
        found.benchmark, found.summary, found.comparison(), model=told["model"], memory=memory, notes=told["notes"]
    )
    assert text == committed(which, "table.md")
    assert csv_text(found.benchmark, found.summary, model=told["model"], memory=memory) == committed(which, "table.csv")


def test_the_rows_are_found_by_a_run_of_today(which: str, store: ResultStore) -> None:
    """A key of today holds no size of a chunk; the committed rows count for it all the same."""
    settings = json.loads(committed(which, "table.json"))["settings"]
    with store:
        for method, own in settings.items():
            today = store.begin(method, {name: value for name, value in own.items() if name != "chunk"})
            assert len(store.done(today)) == SETS[which][1], method
            assert today not in {run for run, (_, s) in store.runs().items() if "chunk" in s}
