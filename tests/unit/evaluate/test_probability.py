"""Scores equal the definition on the whole model, whatever is shared or batched."""

from __future__ import annotations

import pytest
import torch

from conftest import tiny
from factedit.edit.artefact import Edit
from factedit.edit.effects.low_rank import LowRank
from factedit.evaluate.probability import Question, plan_of, score
from factedit.models.adapter import EditableModel
from factedit.models.positions import continuation

CASES = [
    [Question("Paris is", "the"), Question("Paris is", "Seattle"), Question("LeBron James plays", "basketball")],
    [Question("The capital of France is", "Paris"), Question("Café", "東京 Москва")],
    [Question("In downtown Seattle the mother tongue is ", "French")],
]


def random_edit(model: EditableModel, seed: int, layer: int, rank: int = 1) -> Edit:
    random = torch.Generator().manual_seed(seed)
    left = 0.3 * torch.randn(model.d_mlp, rank, generator=random)
    return Edit(
        method="random",
        requests=(),
        effects=(LowRank(layer, left, torch.randn(rank, model.d_model, generator=random)),),
        made_for=model.fingerprint(),
    )


def plain(model: EditableModel, question: Question) -> tuple[list[float], list[bool]]:
    ids, first = continuation(model, *question)
    with torch.no_grad():
        logits = model.lm(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    places = range(first - 1, len(ids) - 1)
    return [float(logits[p, ids[p + 1]]) for p in places], [int(logits[p].argmax()) == ids[p + 1] for p in places]


def test_scores_equal_the_definition(editable_family: EditableModel) -> None:
    """Unedited and differently edited models (two layers, two ranks) in one call."""
    model = editable_family
    edits = [random_edit(model, 1, 1), random_edit(model, 2, 2, rank=2), random_edit(model, 3, 1)]
    before, after = score(model, CASES, [None, edits])
    for case, questions in enumerate(CASES):
        for n, question in enumerate(questions):
            log_p, first = plain(model, question)
            assert before[case][n].log_p == pytest.approx(log_p, abs=2e-3)
            assert before[case][n].first == tuple(first)
            with edits[case].applied_to(model):
                log_p, first = plain(model, question)
            assert after[case][n].log_p == pytest.approx(log_p, abs=5e-3)
    changed = [
        abs(b.log_p[0] - a.log_p[0]) for c, d in zip(before, after, strict=True) for b, a in zip(c, d, strict=True)
    ]
    assert max(changed) > 1e-2


def test_two_one_word_answers_are_read_off_one_row() -> None:
    model = tiny("gpt2")
    plan = plan_of(model, [[Question("Paris is", "the"), Question("Paris is", "in")]])
    assert len(plan.rows) == 1
    assert len(plan_of(model, [[Question("Paris is", "the")], [Question("Paris is", "in")]]).rows) == 2, (
        "not across cases"
    )


def test_probability_is_length_normalised() -> None:
    from factedit.evaluate.probability import Score

    found = Score((-1.0, -3.0), (True, False))
    assert found.probability == pytest.approx(torch.tensor(-2.0).exp().item())
    assert found.accuracy == 0.5
