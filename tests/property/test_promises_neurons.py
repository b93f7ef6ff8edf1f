"""Knowledge neurons (arXiv 2104.08696, section 3.2): the integral, the threshold and the change, written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from factedit.edit.attribution import attributions
from factedit.edit.method_table import make_method
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from plain import edits_of, encode, notes_of, value_at

PROMPT, LAYER = "LeBron James plays the sport of", 1


def integrated(model: EditableModel, ids: list[int], answer: int, layer: int, steps: int) -> Tensor:
    """key / m · Σ ∂P[answer] / ∂key at key · k / (m − 1), k from 0 to m − 1, of the last token on the whole model."""
    key, _ = value_at(model, ids, layer, len(ids) - 1)
    slopes = []
    for k in range(steps):
        scaled = (key * k / (steps - 1)).requires_grad_()

        def replace(_module: object, inputs: tuple[Tensor], own: Tensor = scaled) -> tuple[Tensor]:
            return (torch.cat([inputs[0][:, :-1], own[None, None]], 1),)

        handle = model.lm.transformer.h[layer].mlp.c_proj.register_forward_pre_hook(replace)
        p = model.lm(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)[answer]
        handle.remove()
        slopes.append(torch.autograd.grad(p, scaled)[0])
    return key * torch.stack(slopes).sum(0) / steps


@pytest.mark.parametrize("steps", [2, 5])
def test_an_attribution_is_the_key_times_the_mean_gradient_on_the_way_from_zero(
    tiny_gpt2: EditableModel, steps: int
) -> None:
    ids = encode(tiny_gpt2, PROMPT)
    found = attributions(tiny_gpt2, ids, 17, steps=steps)
    for layer in range(tiny_gpt2.n_layer):
        expected = integrated(tiny_gpt2, ids, 17, layer, steps)
        torch.testing.assert_close(found.scores[layer], expected, rtol=2e-3, atol=1e-7)
        torch.testing.assert_close(found.keys[layer], value_at(tiny_gpt2, ids, layer, len(ids) - 1)[0])
        assert expected.abs().max() > 1e-5, "the answer hangs on the key"


def test_the_neurons_of_an_edit_are_above_a_share_of_the_largest_attribution_of_the_old_object(
    tiny_gpt2: EditableModel,
) -> None:
    """The old object is `target_true`, of which the first token is meant; the share is of the largest in all layers."""
    request = EditRequest(
        subject="LeBron James", prompt="{} plays the sport of", target_new="football", target_true="basketball"
    )
    nothing = lambda *_: None  # noqa: E731
    method = make_method("kn", tiny_gpt2, nothing, steps=3, threshold=0.5)  # type: ignore[arg-type]
    [edit] = edits_of(method, tiny_gpt2, [request])
    ids, whole = encode(tiny_gpt2, PROMPT), encode(tiny_gpt2, f"{PROMPT} basketball")
    ids, old = whole[: len(ids) + 1], whole[len(ids) + 1]  # the space, a token of its own here, is put to the prompt
    scores = torch.stack([integrated(tiny_gpt2, ids, old, layer, 3) for layer in range(tiny_gpt2.n_layer)])
    expected = (scores > 0.5 * scores.max()).nonzero().tolist()
    assert notes_of(edit)["neurons"] == expected
    assert 0 < len(expected) < 40
