"""A benchmark and a metric from outside, one file each, through evaluate, the store, the tables and the lists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from conftest import tiny_lm, tiny_tokenizer
from factedit.evaluate.benchmarks.table import benchmark_of, find_benchmark
from factedit.evaluate.compare import compare
from factedit.evaluate.metrics.table import find_metric
from factedit.evaluate.run import summary_of
from factedit.evaluate.store import ResultStore
from factedit.facts import EditRequest, FactRecord
from factedit.report.paper import markdown
from factedit.report.verdict import verdicts_in_words
from factedit.stats.second_moment import SecondMoment
from factedit.stats.store import write_moment
from run_command import ok, refused
from throwaway import install


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", monkeypatch, "floor", "capitals", "broken")
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def given(tmp_path: Path) -> list[object]:
    """A tiny model, a data set of three facts, and the options that make it fast."""
    tiny_lm("gpt2").save_pretrained(tmp_path / "tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    moment = write_moment(tmp_path / "c.safetensors", SecondMoment(torch.eye(128)))
    rows = [
        {
            "case_id": n, "requested_rewrite": {"prompt": "{} is in", "subject": s, "target_new": {"str": "football"},
                                                "target_true": {"str": "Seattle"}},
            "paraphrase_prompts": [f"So {s} is in"], "neighborhood_prompts": ["Basketball is in"],
        }
        for n, s in enumerate(("Paris", "France", "Seattle"))
    ]  # fmt: skip
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    return [tmp_path / "tiny", "--dataset", tmp_path / "mine.json", "--split", "all", "--method", "ft,rome",
            "--second-moment", moment, "--threads", "1", "--out", tmp_path / "out"]  # fmt: skip


def test_from_evaluate_to_the_table(given: list[object], tmp_path: Path) -> None:
    ok("evaluate", *given, "--benchmark", "floor", "--metrics", "capitals", "--no-free")
    found = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert list(found) == ["about", "unedited", "ft", "rome"]
    about = found.pop("about")
    assert about["command"].startswith("factedit evaluate tiny --dataset mine.json --method ")
    for row in found.values():
        assert row["LEAST"] == pytest.approx(min(row["AT"], row["ELSE"]))
        assert row["tests"]["caps"] == [6, 0]
        assert "ES" not in row
    assert found["ft"]["AT"] > found["unedited"]["AT"], "FT raises the new object"
    header = (tmp_path / "out" / "table.md").read_text().splitlines()[0]
    assert header == "| method | n | LEAST | AT | ELSE | AWAY | caps | seconds_per_edit | peak_memory_mb |"
    ok("evaluate", *given)
    text = (tmp_path / "out" / "table.md").read_text()
    assert "ES" in text, "the set's own benchmark is another run in the same store"
    assert "AT" not in text.splitlines()[0]
    ok("report", tmp_path / "out", "--json", tmp_path / "report.json")
    rows = list(json.loads((tmp_path / "report.json").read_text())[str(tmp_path / "out")].values())
    assert [("LEAST" in row, "S" in row) for row in rows] == [(True, False)] * 3 + [(False, True)] * 3


def test_verdict_and_published_rows_are_its_own(given: list[object], tmp_path: Path) -> None:
    ok("evaluate", *given, "--benchmark", "floor", "--no-free")
    floor = find_benchmark("floor")
    with ResultStore(tmp_path / "out" / "results.sqlite") as store:
        results = {name: store.results(run) for run, (name, _) in store.runs().items()}
    summary = {name: summary_of(list(rows.values()), floor) for name, rows in results.items()}
    rows = {name: {case: row["scores"] for case, row in own.items()} for name, own in results.items()}
    comparison = compare(rows, floor.headline)
    text = markdown(floor, summary, comparison, model="tiny", memory=dict.fromkeys(summary, 1.0), notes={})
    assert text.startswith("# Floor (Table 0) on tiny\n")
    assert "| *ft (Some model, published)* |  | 1.0 | 2.0 | 3.0 | 4.0 | – | – |" in text
    assert "Best LEAST: " in verdicts_in_words(summary, comparison, floor)
    least = min(("ft", "rome"), key=lambda method: summary[method]["AWAY"].value)
    [line] = [line for line in text.splitlines() if line.startswith(f"| {least} |")]
    assert line.split(" | ")[3].startswith("**"), "of a column where lower is better the lowest is marked"


def test_they_are_listed_and_wrong_names_refused(given: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    listed = ok("benchmarks")
    assert "floor" in listed
    assert "LEAST" in listed
    assert "capitals" in ok("metrics")
    assert "Unknown benchmark 'flor'. Did you mean floor" in refused(
        capsys, 2, "evaluate", *given, "--benchmark", "flor"
    )
    said = refused(capsys, 2, "evaluate", *given, "--metrics", "capital")
    assert "Unknown metric 'capital'. Did you mean capitals" in said


def test_one_that_cannot_be_loaded_is_named_and_the_others_work(caplog: pytest.LogCaptureFixture) -> None:
    assert find_metric("capitals").name == "capitals"
    assert "broken (throwaway.broken:Broken) cannot be loaded: RuntimeError: half a file" in caplog.text


def test_a_set_is_asked_by_its_own_benchmark_unless_another_is_named() -> None:
    lonely = FactRecord(case_id="1", request=EditRequest(subject="a", prompt="{}", target_new="b", target_true="c"))
    assert benchmark_of([lonely]).name == "counterfact"
    assert find_benchmark("floor").lacks(lonely) == "other wordings"
