"""A record that cannot be asked, and numbers that are not finite: named, counted, and the run goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import tiny
from factedit.edit.artefact import Edit
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.method import Made
from factedit.edit.method_table import make_method
from factedit.errors import RequestError
from factedit.evaluate.measures import Measures
from factedit.evaluate.metric import Metric
from factedit.evaluate.metrics.free import Free
from factedit.evaluate.metrics.generation_entropy import GenerationEntropy
from factedit.evaluate.run import Evaluation, evaluate_methods
from factedit.evaluate.store import ResultStore
from factedit.evaluate.told import left_out
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from factedit.report.tables import notes_on_rows
from factedit.stats.second_moment import SecondMoment

SUBJECTS = ("Paris", "Seattle", "LeBron James")
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


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2")


def rome(model: EditableModel) -> Any:
    moments = lambda m, _layer: SecondMoment(torch.eye(m.d_mlp))  # noqa: E731
    return make_method("rome", model, moments, layer=1, steps=2, context_templates=["{}"])


def run(
    model: EditableModel,
    path: Path,
    *metrics: Metric,
    records: Sequence[FactRecord] = RECORDS,
    method: Any = None,
) -> Evaluation:
    with ResultStore(path) as store:
        methods, measures = [method or rome(model)], Measures(metrics=metrics, chunk=2)
        return evaluate_methods(model, records, methods, store, dataset="test", measures=measures)


def too_long(record: FactRecord) -> FactRecord:
    return replace(record, paraphrases=("Paris " * 80,))


def test_a_record_that_is_too_long_is_named_and_counted_and_the_run_goes_on(
    model: EditableModel, tmp_path: Path
) -> None:
    found = run(model, tmp_path / "r.sqlite", records=[RECORDS[0], too_long(RECORDS[1]), RECORDS[2]])
    plain = run(model, tmp_path / "plain.sqlite")
    for method in ("unedited", "rome"):
        [(case, why)] = left_out(found.results)["teacher-forced"][method].items()
        assert case == "1"
        assert "tokens; tiny-gpt2 reads 64" in why
        assert found.results[method]["1"]["tests"]["ES"] == [0, 1]
        for case in ("0", "2"):
            assert found.results[method][case]["scores"] == pytest.approx(
                plain.results[method][case]["scores"], abs=1e-3, nan_ok=True
            )
        assert found.summary[method]["ES"].n == 2
        assert found.as_json()[method]["tests"]["ES"] == [2, 1]
    assert any(note.startswith("teacher-forced has no score in 1 of 3 cases") for note in notes_on_rows(found.results))
    again = run(model, tmp_path / "r.sqlite", records=[RECORDS[0], too_long(RECORDS[1]), RECORDS[2]])
    assert again.stored == (6, 6)
    assert found.stored == (0, 6)
    with pytest.raises(RequestError, match=r"None of the 1 records could be asked; the first: .* has \d+ tokens"):
        run(model, tmp_path / "none.sqlite", records=[too_long(RECORDS[0])])


@dataclass(frozen=True)
class Breaks:
    """An edit whose model gives numbers that are not finite, for one subject."""

    model: EditableModel
    name: str = "breaks"
    paper: str = "none"
    scope: str = "each"

    def edit(self, requests, state=None):
        edits = []
        for request in requests:
            left = torch.full((self.model.d_mlp, 1), 3e38 if request.subject == SUBJECTS[1] else 1e-3)
            effects = (LowRank(1, left, torch.ones(1, self.model.d_model)),)
            made_for = self.model.fingerprint()
            edits.append(Edit(method="breaks", requests=(request,), effects=effects, made_for=made_for))
        return Made(tuple(edits))

    def describe(self):
        return {}


def test_numbers_that_are_not_finite_are_not_executed_and_counted(model: EditableModel, tmp_path: Path) -> None:
    """Before: ES counted the record as failed, EM left it out, and sampling ended in a traceback."""
    free = (Free(2), GenerationEntropy(12))
    found = run(model, tmp_path / "r.sqlite", *free, method=Breaks(model))
    broken = found.results["breaks"]["1"]
    assert all(math.isnan(value) for value in broken["scores"].values())
    names = ("ES", "EM", "efficacy_tokens", "PS", "PM", "NS", "NM", "free", "GE")
    assert broken["tests"] == {name: [0, 1] for name in names}
    assert set(broken["left_out"]) == {"free", "generation-entropy"}
    assert all("not finite" in why for why in broken["left_out"].values())
    assert "left_out" not in found.results["unedited"]["1"], "other models of the same record have their scores"
    assert found.summary["breaks"]["ES"].n == found.summary["breaks"]["EM"].n == 2
    assert found.summary["unedited"]["ES"].n == 3
    alone = run(model, tmp_path / "alone.sqlite", method=Breaks(model))
    [told] = [note for note in notes_on_rows(alone.results) if "not executed" in note]
    assert told.startswith("breaks: ")
    assert "ES 1 of 3" in told
