"""A benchmark and a metric from outside, one file each, through evaluate, the store, the tables and the lists."""

from __future__ import annotations

import json
import sys
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
from factedit.report.verdict import in_words
from factedit.stats.second_moment import SecondMoment
from factedit.stats.store import write_moment
from run_command import ok, refused

BENCHMARK = '''
"""Is the new object among the likely ones, whatever stood there before?"""

from factedit.evaluate.benchmark import Benchmark, Legs, Published
from factedit.evaluate.column import Column
from factedit.evaluate.estimates import Headline
from factedit.evaluate.probability import Question


class Floor(Benchmark):
    name = "floor"
    title = "Floor (Table 0)"
    what = "the new object's probability, at least"
    source = "a test"
    dataset = "worldfacts"
    scores = (
        Column("AT", "at the edited prompt"),
        Column("ELSE", "at other wordings"),
        Column("AWAY", "at other subjects", better="lower"),
    )
    headline = Headline("LEAST", "the least of the first two", ("AT", "ELSE"), min)
    columns = ("LEAST", "AWAY", "AT", "ELSE")
    legs = Legs("AT", "ELSE", "AWAY")
    methods = ("rome", "ft")
    published = (Published("Some model", "ft", (1.0, 2.0, 3.0, 4.0)),)

    def lacks(self, record):
        return "" if record.paraphrases else "other wordings"

    def questions(self, record):
        prompts = (record.request.text, record.paraphrases[0], record.neighborhood[0])
        return [Question(prompt, record.request.target_new) for prompt in prompts]

    def numbers(self, record, scores):
        return dict(zip(("AT", "ELSE", "AWAY"), (100 * score.probability for score in scores)))


FLOOR = Floor()
'''

METRIC = '''
"""Does the model shout?"""

from factedit.evaluate.column import Column
from factedit.evaluate.metric import Metric, Outcome
from factedit.evaluate.texts import Greedy


class Capitals(Metric):
    name = "capitals"
    what = "share of capital letters in what is written"
    source = "a test"
    columns = (Column("caps", "percent", better="lower"),)

    def asks(self, record):
        return [Greedy(record.request.text, 4), Greedy(record.paraphrases[0], 4)]

    def scored(self, answered):
        text = "".join(answered.replies)
        share = 100 * sum(letter.isupper() for letter in text) / max(1, len(text))
        return Outcome({"caps": share}, {"shouted": text}, {"caps": (len(answered.replies), 0)})

    def describe(self):
        return {"tokens": 4}
'''
BROKEN = "raise RuntimeError('half a file')\n"


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three installed packages: a benchmark, a metric, and a metric that cannot be loaded."""
    site = tmp_path / "site"
    for package, group, name, target, source in (
        ("a_benchmark", "factedit.benchmarks", "floor", "a_benchmark:FLOOR", BENCHMARK),
        ("a_metric", "factedit.metrics", "capitals", "a_metric:Capitals", METRIC),
        ("a_broken_one", "factedit.metrics", "broken", "a_broken_one:Broken", BROKEN),
    ):
        about = site / f"{package}-1.0.dist-info"
        about.mkdir(parents=True)
        (site / f"{package}.py").write_text(source)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[{group}]\n{name} = {target}\n")
        monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.syspath_prepend(str(site))
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
    assert list(found) == ["unedited", "ft", "rome"]
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
    assert "Best LEAST: " in in_words(summary, comparison, floor)
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
    assert "broken (a_broken_one:Broken) cannot be loaded and is left out: half a file" in caplog.text


def test_a_set_is_asked_by_its_own_benchmark_unless_another_is_named() -> None:
    lonely = FactRecord(case_id="1", request=EditRequest(subject="a", prompt="{}", target_new="b", target_true="c"))
    assert benchmark_of([lonely]).name == "counterfact"
    assert find_benchmark("floor").lacks(lonely) == "other wordings"
