"""The way of a value into W: how C is solved, what the spill means, how contexts are joined, how ΔW is rounded."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from conftest import random_moment, tiny
from factedit.edit.method import make_method
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.stats.second_moment import SecondMoment
from plain import changed_weight, edits_of, encode, factors_of, notes_of, prompt_after, token_at, value_at

REQUEST = EditRequest(subject="LeBron James", prompt="{} plays the sport of", target_new="football")
HALF_STEP = 2.0**-8  # of bfloat16 between 1 and 2


def rome(model: EditableModel, moment: SecondMoment, name: str = "rome", **changes: Any) -> Any:
    settings = {"layer": 1, "steps": 3, "context_templates": ("{}", "In Paris. {}"), **changes}
    return make_method(name, model, lambda _model, _layer: moment, **settings)


def test_a_change_is_added_in_float32_and_only_the_sum_is_rounded() -> None:
    """1 + (½ + 2⁻¹⁰) step rounds up. ΔW rounded to bfloat16 first is ½ step, and the tie goes back to 1."""
    weight = torch.ones(4, 3, dtype=torch.bfloat16)
    left, right = torch.full((4, 1), HALF_STEP * (1 + 2.0**-9)), torch.ones(1, 3)
    assert left.bfloat16().float()[0, 0] == HALF_STEP, "rounded on its own it loses what decides"
    new = changed_weight(weight, left, right)
    assert new.dtype == torch.bfloat16
    assert (new.float() == 1 + 2 * HALF_STEP).all()


def test_the_ridge_is_a_share_of_the_mean_eigenvalue() -> None:
    """C with eigenvalues 2, 4 and 12, of mean 6: a ridge of 0.5 adds 3 to each."""
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double())
    eigenvalues = torch.tensor([2.0, 4.0, 12.0]).double()
    moment = SecondMoment(turn @ torch.diag(eigenvalues) @ turn.T).with_ridge(0.5)
    keys = torch.eye(3).double()
    torch.testing.assert_close(moment.solve(keys), turn @ torch.diag(1 / (eigenvalues + 3)) @ turn.T)
    assert moment.condition == pytest.approx(15 / 5)


def test_a_method_with_a_ridge_solves_with_that_much_on_the_diagonal(tiny_gpt2: EditableModel) -> None:
    moment = random_moment(tiny_gpt2.d_mlp)
    given = SecondMoment(9.0 * moment.matrix)  # so that a ridge in plain numbers is another one
    [edit] = edits_of(rome(tiny_gpt2, given, ridge=0.25), tiny_gpt2, [REQUEST])
    more = 0.25 * float(torch.linalg.eigvalsh(given.matrix).mean())
    expected = torch.linalg.solve(given.matrix + more * torch.eye(len(given.matrix)), mean_key(tiny_gpt2).double())
    direction = factors_of(edit)[0][:, 0].double()
    torch.testing.assert_close(direction, expected / expected.norm(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["rome", "rome-original"])
def test_the_spill_is_the_root_of_the_mean_square_share_that_other_keys_feel(
    tiny_gpt2: EditableModel, name: str
) -> None:
    """Of the keys that C is the mean of: each feels a share of the residual; the spill is their root mean square."""
    keys = torch.randn(900, tiny_gpt2.d_mlp, generator=torch.Generator().manual_seed(2)).double()
    moment = SecondMoment(keys.T @ keys / len(keys), tokens=len(keys))
    [edit] = edits_of(rome(tiny_gpt2, moment, name), tiny_gpt2, [REQUEST])
    left, right = (factor.double() for factor in factors_of(edit))
    residual = right[0] * notes_of(edit)["denominator"]
    shares = (keys @ left @ right).norm(dim=1) / residual.norm()
    assert notes_of(edit)["spill"] == pytest.approx(math.sqrt(float((shares**2).mean())), rel=1e-3)


def test_contexts_are_the_models_texts_joined_to_the_prompt_by_a_full_stop_and_a_space() -> None:
    model = tiny("gpt2")
    method = make_method("rome", model, lambda m, _layer: random_moment(m.d_mlp), layer=1, contexts=((3, 5), (2, 9)))
    bare, *templates = method.describe()["context_templates"]
    assert bare == "{}"
    assert len(templates) == 5
    for seed, (template, length) in enumerate(zip(templates, (5, 5, 5, 9, 9), strict=True)):
        text = sampled(model, length, seed)
        assert template == text.replace("{", " ").replace("}", " ") + ". {}"
        assert len(text) >= 1


@torch.no_grad()
def sampled(model: EditableModel, length: int, seed: int) -> str:
    """A text of `length` tokens, the start token counted, each drawn from the five likeliest."""
    random = torch.Generator().manual_seed(seed)
    ids = [model.tokenizer.bos_token_id]
    while len(ids) < length:
        best = model.lm(input_ids=torch.tensor([ids])).logits[0, -1].topk(5)
        choice = int(torch.multinomial(best.values.softmax(-1), 1, generator=random))
        ids.append(int(best.indices[choice]))
    return str(model.tokenizer.decode(ids[1:], skip_special_tokens=True))


def mean_key(model: EditableModel) -> torch.Tensor:
    """k*: the mean over the contexts of the key at the last subject token (ROME eq. 3)."""
    found = []
    for context in ("{}", "In Paris. {}"):
        text, last = prompt_after(context, REQUEST)
        found.append(value_at(model, encode(model, text), 1, token_at(model, text, last))[0])
    return torch.stack(found).mean(0)
