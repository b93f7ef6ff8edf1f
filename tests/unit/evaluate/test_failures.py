"""A record that a method cannot edit counts as unedited and is told; a method that edits nothing stops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import tiny
from factedit.edit.method import Made
from factedit.edit.method_table import make_method
from factedit.edit.methods.rome import Rome
from factedit.edit.state import State
from factedit.errors import EditError, RequestError, UsageError
from factedit.evaluate.making import make_each
from factedit.evaluate.measures import Measures
from factedit.evaluate.metrics.free import Free
from factedit.evaluate.metrics.generation_entropy import GenerationEntropy
from factedit.evaluate.run import Evaluation, evaluate_methods
from factedit.evaluate.store import ResultStore
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from factedit.stats.second_moment import SecondMoment

SUBJECTS = ("Paris", "Seattle", "LeBron James", "The Space Needle", "France", "Danielle Darrieux")
RECORDS = [
    FactRecord(
        case_id=str(n),
        request=EditRequest(subject=s, prompt="{} is in", target_new="France", target_true="the capital"),
        paraphrases=(f"Where is {s}? In",),
        neighborhood=("The sport of",),
        generation=(f"{s} is",),
    )
    for n, s in enumerate(SUBJECTS)
]
MEASURES = Measures(metrics=(Free(3), GenerationEntropy(12)), chunk=2)


@dataclass(frozen=True)
class Fails:
    """A method that refuses some subjects."""

    inner: Any
    subjects: Sequence[str]
    kind: type[Exception] = EditError
    name: str = "fails"
    paper: str = "none"

    scope: str = "each"

    def edit(self, requests: Sequence[EditRequest], state: State | None = None) -> Made:
        for request in requests:
            if request.subject in self.subjects:
                raise self.kind(f"No {request.subject}.")
        made: Made = self.inner.edit(requests)
        return made

    def describe(self) -> dict[str, Any]:
        return {}


def rome(model: EditableModel, name: str = "rome") -> Rome:
    moments = lambda m, _layer: SecondMoment(torch.eye(m.d_mlp))  # noqa: E731
    return make_method(name, model, moments, layer=1, steps=2, context_templates=["{}"])  # type: ignore[return-value]


def failing(model: EditableModel, *places: int, kind: type[Exception] = EditError) -> Fails:
    return Fails(rome(model), [SUBJECTS[n] for n in places], kind)


def run(model: EditableModel, path: Path, method: Any, records=RECORDS, measures: Measures = MEASURES) -> Evaluation:
    with ResultStore(path) as store:
        return evaluate_methods(model, records, [method], store, dataset="test", measures=measures)


@pytest.mark.parametrize("kind", [EditError, RequestError])
def test_it_counts_as_unedited_and_is_told(tmp_path: Path, kind: type[Exception]) -> None:
    model = tiny("gpt2")
    found = run(model, tmp_path / "r.sqlite", failing(model, 2, 4, 5, kind=kind))  # the last chunk fails altogether
    told = {"2": "No LeBron James.", "4": "No France.", "5": "No Danielle Darrieux."}
    assert found.not_edited() == {"fails": told}
    assert found.as_json()["fails"]["not_edited"] == told
    assert "not_edited" not in found.as_json()["unedited"]
    for case, row in found.results["fails"].items():
        before = found.results["unedited"][case]
        assert (row["scores"]["EM"] > before["scores"]["EM"] + 0.01) == (case not in told)
        assert ("diagnostics" in row) == ("seconds_per_edit" in row) == (case not in told)
        if case in told:
            assert row["scores"] == pytest.approx(before["scores"], abs=1e-3)
            assert row["generations"] == before["generations"]
    assert found.summary["fails"]["ES"].n == len(RECORDS)
    assert found.summary["fails"]["seconds_per_edit"].n == 3
    again = run(model, tmp_path / "r.sqlite", failing(model, 0))  # what is stored is not tried again
    assert again.results == found.results


def test_the_others_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    model = tiny("gpt2")
    found = [
        run(model, tmp_path / f"{chunk}.sqlite", failing(model, 0), measures=replace(MEASURES, chunk=chunk))
        for chunk in (1, 6)
    ]
    assert found[0].not_edited() == found[1].not_edited() == {"fails": {"0": "No Paris."}}
    for case, row in found[0].results["fails"].items():
        assert found[1].results["fails"][case]["scores"] == pytest.approx(row["scores"], abs=1e-2)


@pytest.mark.parametrize("step", ["prepare", "finish"])
def test_methods_that_share_a_preparation_fail_alone(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2")
    real = getattr(Rome, step)

    def fails(self: Rome, requests: Sequence[EditRequest], *more: Any) -> Any:
        if self.name == "rome" and any(request.subject == "Seattle" for request in requests):
            raise EditError("No Seattle.")
        return real(self, requests, *more)

    monkeypatch.setattr(Rome, step, fails)
    requests = [record.request for record in RECORDS[:3]]
    found = make_each(model, requests, [rome(model), rome(model, "rome-original")])
    assert [isinstance(place, str) for place in found["rome"].places] == [False, True, False]
    assert found["rome"].places[1] == "No Seattle."
    assert len(found["rome-original"].edits) == 3
    expected = rome(model, "rome-original").edit(requests).edits
    for ours, alone in zip(found["rome-original"].edits, expected, strict=True):
        torch.testing.assert_close(ours.effects[0].delta(), alone.effects[0].delta(), rtol=1e-3, atol=1e-5)


def test_a_method_that_edits_nothing_stops(tmp_path: Path) -> None:
    model = tiny("gpt2")
    many = [replace(record, case_id=f"{n}-{record.case_id}") for n in range(3) for record in RECORDS]
    method = failing(model, *range(6))
    with pytest.raises(EditError, match=r"fails could not edit one of the 8 records so far\. Case 0-0: No Paris"):
        run(model, tmp_path / "r.sqlite", method, many)
    assert len(run(model, tmp_path / "few.sqlite", method).not_edited()["fails"]) == 6, "few records prove nothing"


def test_seconds_are_those_of_the_edits_that_were_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure that takes a hundred times as long is not in the seconds per edit, nor counted as an edit."""
    model = tiny("gpt2")
    clock = [0.0]
    monkeypatch.setattr("factedit.evaluate.making.time.perf_counter", lambda: clock[0])

    class Timed(Fails):
        def edit(self, requests: Sequence[EditRequest], state: State | None = None) -> Made:
            for request in requests:
                clock[0] += 100 if request.subject in self.subjects else 1
            return super().edit(requests, state)

    found = run(model, tmp_path / "r.sqlite", Timed(rome(model), ["Seattle", "France", "Danielle Darrieux"]))
    seconds = [row.get("seconds_per_edit") for row in found.results["fails"].values()]
    assert seconds == [1, None, 1, 1, None, None], "chunks of two: one fails, none, both"
    assert found.summary["fails"]["seconds_per_edit"].value == 1
    assert found.summary["fails"]["seconds_per_edit"].n == 3


def test_two_methods_of_one_name_are_refused(tmp_path: Path) -> None:
    model = tiny("gpt2")
    with ResultStore(tmp_path / "r.sqlite") as store, pytest.raises(UsageError, match="Two methods have one name"):
        evaluate_methods(model, RECORDS, [rome(model), rome(model)], store, dataset="test")
    unedited = replace(failing(model), name="unedited")
    with ResultStore(tmp_path / "r.sqlite") as store, pytest.raises(UsageError, match="Two methods have one name"):
        evaluate_methods(model, RECORDS, [unedited], store, dataset="test")
