"""What folders of evaluations hold, a row per selection and run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from conftest import ROOT
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


def test_a_run_that_was_taken_out_of_the_store_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ResultStore(tmp_path / "results.sqlite") as store:
        run = store.begin("rome", {"dataset": "worldfacts abc", "seed": 0})
        store.add([(run, "1", row(100.0))])
        store.select("all", ["1"], ["0123456789abcdef", run])
    found = read_results([tmp_path])[tmp_path]
    assert found.counts == {f"rome [worldfacts, all, {run[:6]}]": 1}
    assert "all: 1 runs were taken out of the store (0123456789abcdef)" in caplog.text


def test_rounds_of_many_facts_are_no_cases_and_have_columns_of_their_own(tmp_path: Path) -> None:
    rounds = [{"harm": {"perplexity": p, "panel": None}, "moved": {"3 out": 3.0, "4 out": 4.0}} for p in (10.0, 30.0)]
    with ResultStore(tmp_path / "results.sqlite") as store:
        run = store.begin("memit", {"dataset": "worldfacts abc", "seed": 0})
        store.add([(run, "1", row(100.0)), (run, "(whole) 0a 1", rounds[0]), (run, "(whole) 0a 2", rounds[1])])
        store.select("all", ["1"], [run])
    [scores] = read_results([tmp_path])[tmp_path].summary.values()
    assert {name: scores[name].value for name in ("ES", "perplexity", "moved")} == {
        "ES": 100.0, "perplexity": 20.0, "moved": 5.0,
    }  # fmt: skip
    with ResultStore(tmp_path / "results.sqlite") as store:
        store.add([(run, "(whole) 0b 1", rounds[0])])  # of other records: not told apart here, so not given
    [scores] = read_results([tmp_path])[tmp_path].summary.values()
    assert "perplexity" not in scores
    with ResultStore(tmp_path / "damaged.sqlite") as store:
        store.add([(store.begin("memit", {"dataset": "worldfacts abc", "seed": 0}), "1", row(1.0))])
        store.add([(run, "(whole) 0a 1", {"harm": 3})])
        store.select("all", ["1"], [run])
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged.sqlite").rename(tmp_path / "damaged" / "results.sqlite")
    with pytest.raises(DataError, match="rounds without their measures"):
        read_results([tmp_path / "damaged"])


@pytest.mark.parametrize("name", ["counterfact-gemma3-270m", "zsre-gemma3-270m"])
def test_the_committed_stores_are_read(name: str, tmp_path: Path) -> None:
    """Every row of the committed table is there, with its number of records and its figures."""
    shutil.copytree(ROOT / "docs" / "results" / name, tmp_path / name)
    found = read_results([tmp_path / name])[tmp_path / name]
    table = json.loads((tmp_path / name / "table.json").read_text())["rows"]
    read = {}
    for label, scores in found.summary.items():
        read.setdefault((label.split(" [")[0], found.counts[label]), []).append(scores)
    assert len(table) >= 10
    for method, wanted in table.items():
        scores = read[method, wanted["n"]]
        first = "efficacy" if name.startswith("zsre") else "ES"
        assert any(own[first].value == pytest.approx(wanted[first], abs=1e-6) for own in scores), method


def test_folders_without_results(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no results\.sqlite"):
        read_results([tmp_path])
    ResultStore(tmp_path / "results.sqlite").close()
    with pytest.raises(DataError, match="no finished case yet"):
        read_results([tmp_path])
