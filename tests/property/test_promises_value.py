"""Eq. 4 of ROME (arXiv 2202.05262), promise by promise: each loss and the way down against the formula spelled out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import random_moment
from factedit.edit.method import make_method
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from plain import (
    edits_of,
    encode,
    equation_4,
    factors_of,
    logits,
    notes_of,
    optimise,
    prompt_after,
    token_at,
    value_at,
)

CONTEXTS = ("{}", "The first time. {}", "In Paris. {}")
LAYER = 1
REQUESTS = [
    EditRequest(subject="Danielle Darrieux", prompt="The mother tongue of {} is", target_new="Москва"),
    EditRequest(subject="LeBron James", prompt="{} plays the sport of", target_new="football"),
]
SETTINGS: dict[str, Any] = {"steps": 4, "learning_rate": 0.2, "kl": 1.0, "decay": 0.5, "clamp": 100.0}


def optimised(model: EditableModel, request: EditRequest, **changes: Any) -> tuple[Tensor, list[list[float]]]:
    """δ, and `[total, nll, kl, decay]` of every evaluation, the last one at δ itself."""
    settings = {**SETTINGS, **changes, "layer": LAYER, "context_templates": CONTEXTS, "stop_loss": 0.0}
    method = make_method("rome", model, lambda m, _layer: random_moment(m.d_mlp), **settings)
    [edit] = edits_of(method, model, [request])
    notes, (_, right) = notes_of(edit), factors_of(edit)
    return right[0] * notes["denominator"], notes["losses"]


@pytest.fixture(params=REQUESTS, ids=["many tokens", "few tokens"])
def request_(request: pytest.FixtureRequest) -> EditRequest:
    return request.param


@torch.no_grad()
def test_the_likelihood_is_the_mean_over_contexts_of_the_mean_over_the_targets_tokens(
    tiny_gpt2: EditableModel, request_: EditRequest
) -> None:
    """Each read weighs 1 / (contexts · target tokens)."""
    offset, losses = optimised(tiny_gpt2, request_, learning_rate=2.0, kl=0.0, decay=0.0)
    expected = float(equation_4(tiny_gpt2, LAYER, request_, CONTEXTS, offset).nll)
    assert losses[-1][1] == pytest.approx(expected, rel=1e-4)
    first = float(equation_4(tiny_gpt2, LAYER, request_, CONTEXTS, torch.zeros_like(offset)).nll)
    assert losses[0][1] == pytest.approx(first, rel=1e-4)
    assert abs(first - expected) > 0.02, "δ matters, so the comparison is not vacuous"


@torch.no_grad()
def test_the_divergence_is_of_the_edited_from_the_original(tiny_gpt2: EditableModel, request_: EditRequest) -> None:
    """KL(edited ‖ original) = Σ p_edited (log p_edited − log p_original), times its weight; not the other way round."""
    offset, losses = optimised(tiny_gpt2, request_, kl=0.3, learning_rate=5.0)
    assert losses[0][2] == pytest.approx(0.0, abs=1e-6)
    expected = float(equation_4(tiny_gpt2, LAYER, request_, CONTEXTS, offset, kl=0.3).kl)
    assert losses[-1][2] == pytest.approx(expected, rel=1e-3)
    ids, at = essence(tiny_gpt2, request_)
    edited = logits(tiny_gpt2, ids, layer=LAYER, at=at, offset=offset)[at].log_softmax(-1)
    original = logits(tiny_gpt2, ids)[at].log_softmax(-1)
    other_way = 0.3 * float((original.exp() * (original - edited)).sum())
    assert abs(other_way - expected) > 0.02 * expected, "the direction shows"


@torch.no_grad()
def test_the_essence_is_read_at_the_subjects_last_token(tiny_gpt2: EditableModel, request_: EditRequest) -> None:
    """The next token's distribution after the subject, and not at the end of "{} is a"."""
    offset, losses = optimised(tiny_gpt2, request_, kl=1.0)
    ids, at = essence(tiny_gpt2, request_)
    divergence = {}
    for place in (at, len(ids) - 1):
        edited = logits(tiny_gpt2, ids, layer=LAYER, at=at, offset=offset)[place].log_softmax(-1)
        original = logits(tiny_gpt2, ids)[place].log_softmax(-1)
        divergence[place] = float((edited.exp() * (edited - original)).sum())
    assert losses[-1][2] == pytest.approx(divergence[at], rel=1e-3)
    assert abs(divergence[len(ids) - 1] - divergence[at]) > 0.1 * divergence[at], "the place shows"


@torch.no_grad()
def test_the_decay_is_the_norm_over_the_squared_norm_of_the_bare_prompts_value(
    tiny_gpt2: EditableModel, request_: EditRequest
) -> None:
    """wd · ‖δ‖ / ‖v0‖²: the numerator is not squared, the denominator is."""
    offset, losses = optimised(tiny_gpt2, request_, decay=0.7)
    text, last = prompt_after("{}", request_)
    _, v0 = value_at(tiny_gpt2, encode(tiny_gpt2, text), LAYER, token_at(tiny_gpt2, text, last))
    assert losses[-1][3] == pytest.approx(0.7 * float(offset.norm() / v0.norm() ** 2), rel=1e-4)
    assert abs(float(v0.norm()) - 1) > 0.2, "‖v0‖ and its square differ"
    assert abs(float(offset.norm()) - 1) > 0.2, "‖δ‖ and its square differ"


@torch.no_grad()
def test_the_total_is_the_sum_of_the_terms(tiny_gpt2: EditableModel, request_: EditRequest) -> None:
    _, losses = optimised(tiny_gpt2, request_)
    for total, *terms in losses:
        assert total == pytest.approx(sum(terms), rel=1e-5)


@pytest.mark.parametrize(
    "weights", [{"kl": 0.0, "decay": 0.0}, {"kl": 20.0, "decay": 0.0}, {"kl": 0.0, "decay": 40.0}, {"clamp": 0.3}],
    ids=["likelihood", "divergence", "decay", "clamp"],
)  # fmt: skip
def test_every_step_goes_down_the_gradient_of_the_whole_objective(
    tiny_gpt2: EditableModel, request_: EditRequest, weights: dict[str, float]
) -> None:
    """Adam on the formula's own gradient, by automatic differentiation of the whole model, takes the same way.

    The divergence's gradient by the logits is p (log p − log p_original − KL); without its mean term −KL the states
    move along the sum of the word embeddings, which a large weight makes visible.
    """
    settings = {**SETTINGS, **weights, "steps": 6}
    found, losses = optimised(tiny_gpt2, request_, **settings)
    expected, history = optimise(tiny_gpt2, LAYER, request_, CONTEXTS, **settings)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-4)
    torch.testing.assert_close(torch.tensor(losses)[:, 1:], torch.tensor(history), rtol=2e-3, atol=1e-4)


def essence(model: EditableModel, request: EditRequest) -> tuple[list[int], int]:
    """The ids of "{} is a" and the position of the subject's last token."""
    text = f"{request.subject} is a"
    return encode(model, text), token_at(model, text, len(request.subject) - 1)
