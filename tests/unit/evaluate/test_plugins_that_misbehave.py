"""Metrics and methods of other packages that misbehave: nothing of theirs replaces, spoils or ends what is measured."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import tiny
from factedit.edit.artefact import Edit
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.method import Made
from factedit.errors import DataError, EditError
from factedit.evaluate.benchmarks.table import all_benchmarks
from factedit.evaluate.column import Column
from factedit.evaluate.measures import Measures
from factedit.evaluate.measuring import AS_IT_IS, Measured, measure
from factedit.evaluate.metric import Answered, Metric, Outcome
from factedit.evaluate.metrics.free import Free
from factedit.evaluate.metrics.table import METRICS, all_metrics, find_metric
from factedit.evaluate.run import evaluate_methods
from factedit.evaluate.store import ResultStore
from factedit.evaluate.texts import Greedy
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from factedit.plugins import outside
from factedit.work.edit import edit_facts

RECORDS = [
    FactRecord(
        case_id=subject, request=EditRequest(subject=subject, prompt="{} is in", target_new="a", target_true="the"),
        paraphrases=(f"So {subject} is in",), neighborhood=("Basketball is in",),
    )
    for subject in ("Paris", "France")
]  # fmt: skip


class Bad(Metric):
    """A metric that does in `scored` what a test says."""

    name, what, source = "bad", "nothing", "a test"
    columns = (Column("c", "a count", high=math.inf),)

    def __init__(self, does: Callable[[Answered], Any]) -> None:
        self.does = does

    def asks(self, record: FactRecord) -> list[Greedy]:
        return [Greedy(record.request.text, 3)]

    def scored(self, answered: Answered) -> Any:
        return self.does(answered)


def measured(*metrics: Metric) -> Measured:
    """What the first record is given by metrics on a tiny model."""
    [[first, _]] = measure(tiny("gpt2"), RECORDS, metrics, [AS_IT_IS], seed=0)
    return first


def test_a_text_under_the_name_of_another_metrics_is_told() -> None:
    """Before: it took the other's place in the row."""
    gives = Outcome({"c": 1.0}, {"continuation": "another"})
    both, alone = measured(Free(), Bad(lambda _answered: gives)), measured(Free())
    assert both.left_out == {"bad": "another metric keeps other texts as 'continuation'"}
    assert (both.scores["free"], both.texts) == (alone.scores["free"], alone.texts)
    assert both.tests["c"] == (0, 1)


def test_infinity_is_not_executed_whatever_is_counted() -> None:
    """Before: infinity went into the mean; a NaN that was counted as executed was left out of it in silence."""
    row = measured(Bad(lambda _answered: Outcome({"c": math.inf}, {}, {"c": (2, 1)})))
    assert math.isnan(row.scores["c"])
    assert row.tests["c"] == (0, 3)
    assert measured(Bad(lambda _answered: Outcome({"c": torch.tensor(2.0)}))).scores["c"] == 2.0


def test_what_a_metric_does_to_its_replies_reaches_no_other() -> None:
    class Twin(Bad):
        name, columns = "twin", (Column("d", "a length"),)

    def empties(answered: Answered) -> Outcome:
        answered.replies.clear()  # type: ignore[attr-defined]
        return Outcome({"c": 0.0})

    def length(answered: Answered) -> Outcome:
        return Outcome({"d": float(len(answered.replies))})

    row = measured(Bad(empties), Twin(length))
    assert row.scores["d"] == 1.0
    assert "bad" in row.left_out


def test_a_metric_that_ends_the_program_is_left_out() -> None:
    """Before: `sys.exit(0)` of a metric ended the command with success and without a word."""
    row = measured(Bad(lambda _answered: sys.exit(0)), Free())
    assert row.left_out == {"bad": "SystemExit: 0"}
    assert row.scores["free"] in (0.0, 100.0)


def test_a_result_that_could_not_be_read_again_is_not_stored(tmp_path: Path) -> None:
    """Before: it was stored, and from then on the file was no results store."""
    good = {"scores": {"ES": 1.0}, "tests": {"ES": [1, 0]}}
    with ResultStore(tmp_path / "results.sqlite") as store:
        run = store.begin("rome", {"seed": 0})
        store.add([(run, "0", good)])
        for bad in ({"scores": {"ES": "1"}}, {"scores": {}, "tests": {"ES": [0.5, 1]}}, {"scores": {}, "seen": {1}}):
            with pytest.raises(DataError, match="The result of case 1 is not stored"):
                store.add([(run, "1", bad)])
        assert store.results(run) == {"0": good}


class Adds:
    """A method that does to its model what a test says."""

    name, paper, scope = "adds", "none", "each"

    def __init__(
        self, model: EditableModel, does: Callable[[EditableModel], Any] = lambda _model: None,
        left: torch.Tensor | None = None,
    ) -> None:  # fmt: skip
        self.model, self.does = model, does
        self.left = torch.ones(model.d_mlp, 1) if left is None else left

    def edit(self, requests: Sequence[EditRequest], state: object = None) -> Made:
        made_for = self.model.fingerprint()
        effects = (LowRank(1, self.left, torch.ones(1, self.model.d_model)),)
        made = [Edit(method="adds", requests=(r,), effects=effects, made_for=made_for) for r in requests]
        self.does(self.model)
        return Made(tuple(made))

    def describe(self) -> dict[str, Any]:
        return {}


def halve(model: EditableModel) -> None:
    model.lm.get_parameter("transformer.h.0.mlp.c_proj.weight").data.mul_(0.5)


def train(model: EditableModel) -> None:
    model.lm.train()


def hook(model: EditableModel) -> None:
    model.lm.transformer.h[0].register_forward_hook(lambda _module, _args, output: output)


@pytest.mark.parametrize(("does", "what"), [(halve, "its weights"), (train, "its mode"), (hook, "its hooks")])
def test_a_method_that_does_not_give_the_model_back_is_refused(
    does: Callable[[EditableModel], None], what: str, tmp_path: Path
) -> None:
    """Before: all that came after was measured on the changed model, under the name of the first."""
    model = tiny("gpt2")
    with ResultStore(tmp_path / "results.sqlite") as store:
        with pytest.raises(EditError, match=rf"Code of .* changed the model \({what}"):
            evaluate_methods(model, RECORDS, [Adds(model, does)], store, dataset="d", measures=Measures(metrics=()))
        assert not any(store.results(run) for run in store.runs())
    model = tiny("gpt2")
    with pytest.raises(EditError, match=rf"changed the model \({what}"):
        edit_facts(model, Adds(model, does), [RECORDS[0].request], folder=tmp_path / "edit")
    assert not (tmp_path / "edit").exists()


@pytest.mark.parametrize(
    ("left", "why"),
    [(torch.ones(1, 1), r"changes a matrix \[1, 32\]; the matrix 'out' of layer 1 is \[128, 32\]"),
     (torch.full((128, 1), math.nan), "change of the matrix 'out' of layer 1 is not finite")],
)  # fmt: skip
def test_a_change_that_does_not_fit_is_not_measured(left: torch.Tensor, why: str, tmp_path: Path) -> None:
    """Before: one row was repeated for all, and the scores of another edit stood in the table."""
    model = tiny("gpt2")
    with ResultStore(tmp_path / "results.sqlite") as store:
        evaluation = evaluate_methods(
            model, RECORDS, [Adds(model, left=left)], store, dataset="d", measures=Measures(metrics=())
        )
    assert all(re.search(why, told) for told in evaluation.not_edited()["adds"].values())
    assert len(evaluation.not_edited()["adds"]) == len(RECORDS)
    with pytest.raises(EditError, match=why):
        edit_facts(model, Adds(model, left=left), [RECORDS[0].request], folder=tmp_path / "edit")


def test_a_metric_that_does_not_give_the_model_back_is_refused(tmp_path: Path) -> None:
    model = tiny("gpt2")
    bad = Bad(lambda _answered: (halve(model), Outcome({"c": 0.0}))[1])
    with ResultStore(tmp_path / "results.sqlite") as store:
        with pytest.raises(EditError, match="changed the model"):
            evaluate_methods(model, RECORDS, [], store, dataset="d", measures=Measures(metrics=(bad,)))
        evaluate_methods(model, RECORDS, [Adds(model)], store, dataset="d", measures=Measures(metrics=()))


def announce(folder: Path, patch: pytest.MonkeyPatch, package: str, group: str, name: str, target: str) -> None:
    """Make an entry point known, as an installed package does."""
    about = folder / f"{package}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{group}]\n{name} = {target}\n")
    patch.syspath_prepend(str(folder))


def test_names_that_are_taken_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Before: which of two was used was anybody's guess, and one called like a metric of factedit's was never seen."""
    group = "factedit.metrics"
    announce(tmp_path / "a", monkeypatch, "a_pack", group, "free", "throwaway.capitals:Capitals")
    announce(tmp_path / "b", monkeypatch, "b_pack", group, "loud", "throwaway.capitals:Capitals")
    announce(tmp_path / "c", monkeypatch, "c_pack", group, "loud", "throwaway.floor:FLOOR")
    announce(tmp_path / "d", monkeypatch, "d_pack", group, "ends", "throwaway.ends:Ends")
    assert find_metric("free") is Free
    assert "free (throwaway.capitals:Capitals) has the name of one of factedit's own and is left out" in caplog.text
    assert "loud is both throwaway.floor:FLOOR and throwaway.capitals:Capitals; the first is used" in caplog.text
    all_metrics()
    assert "The metric loud is left out: it is no class that is made from" in caplog.text
    assert "throwaway.ends:Ends) cannot be loaded: SystemExit: 0. Mend its package." in caplog.text
    assert set(outside(group, METRICS)) >= {"loud", "ends"}
    announce(tmp_path / "e", monkeypatch, "e_pack", "factedit.benchmarks", "flat", "throwaway.floor:FLOOR")
    announce(tmp_path / "f", monkeypatch, "f_pack", "factedit.benchmarks", "low", "throwaway.floor:Floor")
    assert not {"flat", "low"} & all_benchmarks().keys()
    assert "The benchmark flat is left out: it calls itself 'floor'" in caplog.text
    assert "The benchmark low is left out: it is no object of a class" in caplog.text
