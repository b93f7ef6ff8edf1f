"""What folders of evaluations hold, a row per selection and run."""

from __future__ import annotations

from pathlib import Path

import pytest

from factedit.errors import DataError
from factedit.evaluate.store import ResultStore
from factedit.work.results import read_results


def row(es: float, **more: object) -> dict[str, object]:
    return {"scores": {"ES": es}, "peak_memory_mb": 1.0, **more}


def test_rows_are_not_pooled(tmp_path: Path) -> None:
    with ResultStore(tmp_path / "results.sqlite") as store:
        run = store.begin("rome", {"dataset": "worldfacts abc", "seed": 0})
        store.add([(run, "1", row(100.0)), (run, "2", row(0.0, failed="Not Paris."))])
        store.select("all", ["1", "2", "3"], [run])
        store.select("ids", ["1"], [run])
    found = read_results([tmp_path])[tmp_path]
    whole, single = f"rome [worldfacts, all, 1 missing, {run[:6]}]", f"rome [worldfacts, ids, {run[:6]}]"
    assert found.counts == {whole: 2, single: 1}
    assert {name: scores["ES"].value for name, scores in found.summary.items()} == {whole: 50.0, single: 100.0}
    assert found.not_edited == {whole: {"2": "Not Paris."}, single: {}}
    said = found.as_json()
    assert said[whole]["n"] == 2
    assert said[whole]["not_edited"] == {"2": "Not Paris."}
    assert "not_edited" not in said[single]


def test_folders_without_results(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no results\.sqlite"):
        read_results([tmp_path])
    ResultStore(tmp_path / "results.sqlite").close()
    with pytest.raises(DataError, match="no finished case yet"):
        read_results([tmp_path])
