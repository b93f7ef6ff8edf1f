"""Metrics side by side: none changes another, what is asked twice is read once, what fails is named."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import tiny
from factedit.edit.method_table import make_method
from factedit.errors import ResourceError, UsageError
from factedit.evaluate import texts
from factedit.evaluate.benchmark import Benchmark
from factedit.evaluate.benchmarks.counterfact import CounterFact
from factedit.evaluate.column import Column
from factedit.evaluate.measures import Measures
from factedit.evaluate.metric import Answered, Metric, Outcome
from factedit.evaluate.metrics.consistency import Consistency, References
from factedit.evaluate.metrics.free import Free
from factedit.evaluate.metrics.generation_entropy import GenerationEntropy
from factedit.evaluate.probability import Question
from factedit.evaluate.run import Evaluation, evaluate_methods
from factedit.evaluate.store import ResultStore
from factedit.evaluate.texts import Greedy
from factedit.evaluate.told import left_out
from factedit.facts import EditRequest, FactRecord
from factedit.report.tables import left_out_text
from factedit.stats.second_moment import SecondMoment

RECORDS = [
    FactRecord(
        case_id=str(n),
        request=EditRequest(subject=s, prompt="{} is in", target_new="France", target_true="the capital"),
        paraphrases=(f"Where is {s}? In",),
        neighborhood=("The sport of",),
        generation=() if n == 1 else (f"{s} is", f"{s} likes"),
    )
    for n, s in enumerate(("Paris", "Seattle", "LeBron James"))
]
TEXTS = References("by hand", {"france": ("France is in Paris in the capital.",)})


def run(
    path: Path,
    *metrics: Metric,
    records: Sequence[FactRecord] = RECORDS,
    chunk: int = 2,
    benchmark: Benchmark | None = None,
) -> Evaluation:
    model = tiny("gpt2")
    moments = lambda m, _layer: SecondMoment(torch.eye(m.d_mlp))  # noqa: E731
    rome = make_method("rome", model, moments, layer=1, steps=2, context_templates=["{}"])
    with ResultStore(path) as store:
        measures = Measures(metrics=metrics, chunk=chunk)
        return evaluate_methods(model, records, [rome], store, dataset="test", benchmark=benchmark, measures=measures)


class Drift(Metric):
    """How far the new object's probability moved from the unedited model's; only for records with other wordings."""

    name = "drift"
    what = "does the probability move"
    source = "a test"
    columns = (Column("drift", "percentage points", low=-100),)
    compares = True

    def lacks(self, record: FactRecord) -> str:
        return "" if record.case_id != "2" else "third digit"

    def asks(self, record: FactRecord) -> list[Any]:
        """Two kinds at once."""
        return [Greedy(record.request.text, 2), Question(record.request.text, record.request.target_new)]

    def scored(self, answered: Answered) -> Outcome:
        after, before = answered.replies[1].probability, answered.before[1].probability
        texts = {"two tokens": [answered.before[0], answered.replies[0]]}
        return Outcome({"drift": 100 * (after - before)}, texts, {"drift": (2, 1)})


class Fails(Metric):
    """Raises for one record, where told."""

    name = "fails"
    what = source = "a test"
    columns = (Column("failing", "nothing"),)

    def __init__(self, where: str, error: Exception) -> None:
        self.where, self.error = where, error

    def asks(self, record: FactRecord) -> list[Question]:
        if self.where == "asks" and record.case_id == "1":
            raise self.error
        return [Question("x" if self.where != "read" or record.case_id != "1" else "Paris " * 80, "Seattle")]

    def scored(self, answered: Answered) -> Outcome:
        if self.where == "scored" and answered.record.case_id == "1":
            raise self.error
        return Outcome({"failing": 1.0})


def test_no_metric_changes_another(tmp_path: Path) -> None:
    """To the bit: a score does not depend on what else is measured."""
    alone = run(tmp_path / "a.sqlite")
    beside = run(tmp_path / "b.sqlite", Free(3), GenerationEntropy(12), Consistency(TEXTS, 12), Drift())
    fewer = run(tmp_path / "c.sqlite", Consistency(TEXTS, 12))
    for method, rows in alone.results.items():
        for case, row in rows.items():
            own = beside.results[method][case]["scores"]
            assert {name: own[name] for name in row["scores"]} == row["scores"]
            assert str(fewer.results[method][case]["scores"]["RS"]) == str(own["RS"])


def test_metrics_that_ask_the_same_share_the_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    real = texts.continue_texts

    def counted(model: Any, prompts: Any, *rest: Any, **more: Any) -> Any:
        written.append(len(prompts))
        return real(model, prompts, *rest, **more)

    monkeypatch.setattr(texts, "continue_texts", counted)
    found = run(tmp_path / "r.sqlite", GenerationEntropy(12), Consistency(TEXTS, 12))
    assert written == [2, 2, 2, 2], "per chunk and variant once: two prompts of one record each"
    assert not math.isnan(found.results["rome"]["0"]["scores"]["GE"] + found.results["rome"]["0"]["scores"]["RS"])


def test_a_metric_is_given_what_it_asked_and_what_the_unedited_model_replied(tmp_path: Path) -> None:
    found = run(tmp_path / "r.sqlite", Free(2), Drift())
    for case in ("0", "1"):
        row, before = (found.results[method][case] for method in ("rome", "unedited"))
        assert before["scores"]["drift"] == 0
        assert row["scores"]["drift"] > 0, "ROME raises it"
        assert row["two tokens"] == [before["continuation"], row["continuation"]]
        assert row["tests"]["drift"] == [2, 1], "its own counts"
    again = run(tmp_path / "r.sqlite", Free(2), Drift())
    assert str(again.results) == str(found.results), "stored: a metric has its place in the key"
    only = tmp_path / "only.sqlite"
    with ResultStore(tmp_path / "r.sqlite") as store, ResultStore(only) as copy:  # the unedited rows are there already
        for run_, (name, settings) in store.runs().items():
            if name == "unedited":
                own = copy.begin(name, settings)
                copy.add((own, case, row) for case, row in store.results(run_).items())
    assert str(run(only, Free(2), Drift()).results["rome"]["0"]["scores"]) == str(found.results["rome"]["0"]["scores"])


def test_what_a_record_lacks_is_told_and_counted(tmp_path: Path) -> None:
    found = run(tmp_path / "r.sqlite", GenerationEntropy(12), Drift())
    lacking = found.results["rome"]["1"]
    assert math.isnan(lacking["scores"]["GE"])
    assert lacking["left_out"] == {"generation-entropy": "it has no generation prompts"}
    assert lacking["tests"]["GE"] == [0, 1]
    assert found.summary["rome"]["GE"].n == 2
    assert found.as_json()["rome"]["tests"]["GE"] == [2, 1]
    assert found.as_json()["rome"]["tests"]["drift"] == [4, 3]
    assert left_out(found.results)["drift"] == {
        method: {"2": "it has no third digit"} for method in ("unedited", "rome")
    }
    said = left_out_text("drift", left_out(found.results)["drift"], 3)
    assert said == "drift has no score in 1 of 3 cases: 2 (it has no third digit)"
    assert left_out_text("drift", {"rome": {"2": "x"}, "ft": {}}, 3).startswith(
        "drift has no score in 1 of 3 cases under"
    )


@pytest.mark.parametrize(
    ("where", "why"), [("asks", "ValueError: oh"), ("scored", "ValueError: oh"), ("read", "The text")]
)
def test_a_metric_that_fails_is_named_and_the_others_go_on(tmp_path: Path, where: str, why: str) -> None:
    found = run(tmp_path / "r.sqlite", Fails(where, ValueError("oh")), Free(3))
    plain = run(tmp_path / "plain.sqlite", Free(3))
    for method in ("unedited", "rome"):
        told = left_out(found.results)["fails"][method]
        assert list(told) == ["1"], "the other records of its chunk have their score"
        assert told["1"].startswith(why)
        for case, row in found.results[method].items():
            expected = math.nan if case == "1" else 1.0
            assert str(row["scores"]["failing"]) == str(expected)
            assert row["scores"]["free"] == plain.results[method][case]["scores"]["free"]
            assert row["scores"]["ES"] == plain.results[method][case]["scores"]["ES"]


def test_what_is_no_fault_of_the_metric_is_raised(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="disk"):
        run(tmp_path / "r.sqlite", Fails("scored", ResourceError("disk")))
    with pytest.raises(MemoryError):
        run(tmp_path / "r.sqlite", Fails("scored", MemoryError()))
    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "r.sqlite", benchmark=Miscounts())


class Miscounts(CounterFact):
    """A benchmark with a fault."""

    def numbers(self, record, scores):
        return {"ES": 1 / 0}


def test_contradictions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="The score drift is given by two metrics"):
        run(tmp_path / "r.sqlite", Drift(), Drift())
    with pytest.raises(UsageError, match="Two metrics differ in generation_tokens: 12 and 24"):
        run(tmp_path / "r.sqlite", GenerationEntropy(12), Consistency(TEXTS, 24))
    with pytest.raises(UsageError, match="0 records at a time"):
        Measures(chunk=0)
