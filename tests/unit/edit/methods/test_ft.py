"""Fine-tuning against torch's own Adam on the model's own matrix, fact by fact."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from conftest import tiny
from factedit.edit.method_table import make_method
from factedit.errors import EditError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from plain import encode

FACTS = [
    EditRequest(subject="Paris", prompt="{} is in", target_new="Seattle"),
    EditRequest(subject="LeBron James", prompt="{} plays the sport of", target_new="football"),
    EditRequest(subject="Seattle", prompt="The capital of {} is", target_new="Москва"),
]
LAYER, STEPS, RATE = 2, 6, 5e-3


def no_moments(*_: object) -> Any:
    raise AssertionError("fine-tuning asks for no second moment")


def plainly(
    model: EditableModel, fact: EditRequest, *, epsilon: float | None = None, stop: float = 0.0
) -> tuple[torch.Tensor, list[float]]:
    """ΔW and the losses, by whole forward passes with the matrix itself as the parameter."""
    matrix = model.matrix(LAYER)
    kept, whole = matrix.parameter.data.clone(), encode(model, f"{fact.text} {fact.target_new}")
    first = len(encode(model, fact.text))
    matrix.parameter.requires_grad_(True)
    adam, losses = torch.optim.Adam([matrix.parameter], lr=RATE), []
    for _ in range(STEPS):
        log_p = model.lm(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
        loss = -torch.stack([log_p[n - 1, whole[n]] for n in range(first, len(whole))]).mean()
        losses.append(float(loss.detach()))
        if losses[-1] < stop:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        if epsilon is not None:
            with torch.no_grad():
                matrix.parameter.copy_(kept + (matrix.parameter - kept).clamp(-epsilon, epsilon))
    delta = (matrix.parameter.data - kept).clone()
    matrix.parameter.data, matrix.parameter.grad = kept, None
    return matrix.turned(delta), losses


def settings(**more: Any) -> dict[str, Any]:
    return {"layer": LAYER, "steps": STEPS, "learning_rate": RATE, "stop_loss": 0.0, **more}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_many_facts_side_by_side_are_each_its_own_fine_tuning(family: str) -> None:
    model = tiny(family)
    before = model.fingerprint()
    made = make_method("ft", model, no_moments, **settings()).edit(FACTS)
    assert model.fingerprint() == before
    for fact, edit in zip(FACTS, made.edits, strict=True):
        delta, losses = plainly(model, fact)
        found = [loss for [loss] in edit.notes[0].diagnostics["losses"]]
        assert found == pytest.approx(losses, rel=1e-3)
        [effect] = edit.effects
        cosine = torch.nn.functional.cosine_similarity(effect.delta().flatten(), delta.flatten(), dim=0)
        assert float(cosine) > 0.99, "Adam's first step is the gradient's sign, so rounding may turn a few entries"
        assert float(effect.delta().norm()) == pytest.approx(float(delta.norm()), rel=0.02)


def test_with_a_bound_no_entry_changes_more() -> None:
    model, epsilon = tiny("gpt2"), 2e-3
    [edit] = make_method("ft-l", model, no_moments, **settings(epsilon=epsilon)).edit(FACTS[:1]).edits
    assert float(edit.effects[0].delta().abs().max()) == pytest.approx(epsilon, rel=1e-5)
    assert edit.diagnostics["largest_entry"] == pytest.approx(epsilon, rel=1e-5)
    _, losses = plainly(model, FACTS[0], epsilon=epsilon)
    assert [loss for [loss] in edit.notes[0].diagnostics["losses"]] == pytest.approx(losses, rel=1e-3)


def test_each_fact_stops_by_itself_and_rests() -> None:
    model = tiny("gpt2")
    alone = [plainly(model, fact)[1] for fact in FACTS]
    stop = sorted(loss for own in alone for loss in own[1:-1])[len(FACTS)]  # some reach it, not all at one step
    made = make_method("ft", model, no_moments, **settings(stop_loss=stop)).edit(FACTS)
    for fact, edit, whole in zip(FACTS, made.edits, alone, strict=True):
        expected, losses = plainly(model, fact, stop=stop)
        found = [loss for [loss] in edit.notes[0].diagnostics["losses"]]
        assert len(found) == len(losses)
        assert found == pytest.approx(whole[: len(found)], rel=1e-3)
        delta = edit.effects[0].delta()
        assert float((delta - expected).norm()) < 0.2 * float(expected.norm()), "nothing moves it after its stop"


def test_a_loss_that_is_not_finite_names_fact_and_step() -> None:
    model = tiny("gpt2")
    method = make_method("ft", model, no_moments, **settings(learning_rate=1e30))
    before = model.fingerprint()
    with pytest.raises(EditError, match=r"The loss of the fact 'Paris is in.*is not finite at step [12]"):
        method.edit(FACTS[:1])
    assert model.fingerprint() == before
    assert math.isfinite(plainly(model, FACTS[0])[1][0])
