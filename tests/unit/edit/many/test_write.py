"""A batch written into several layers: what each layer is asked for, and what is missing at the end."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from conftest import tiny
from factedit.edit.many.prompts import Prompts
from factedit.edit.many.write import LayerChange, equal_parts, root_parts, weight_after, write_layers
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel

FACTS = [EditRequest(subject=s, prompt="{} is in", target_new="x") for s in ("Paris", "LeBron James", "Seattle")]
LAYERS = (0, 1, 2)


def exactly(_layer: int, keys: Tensor, residual: Tensor) -> LayerChange:
    """ΔW with K ΔW = R."""
    return LayerChange(torch.linalg.pinv(keys), residual)


def hidden(model: EditableModel, layer: int) -> Tensor:
    """What the block gives at the subjects' last tokens, by plain forward passes."""
    rows = []
    for fact in FACTS:
        encoded = model.tokenizer(fact.text, return_offsets_mapping=True)
        last = next(n for n, (b, e) in enumerate(encoded["offset_mapping"]) if b <= len(fact.subject) - 1 < e)
        with torch.no_grad():
            out = model.lm(input_ids=torch.tensor([encoded["input_ids"]]), output_hidden_states=True)
        rows.append(out.hidden_states[layer + 1][0, last])
    return torch.stack(rows)


def prompts(model: EditableModel) -> Prompts:
    return Prompts(model, FACTS, [["{}"]], LAYERS[0])


@pytest.mark.parametrize(("part", "parts"), [(equal_parts, [1 / 3, 1 / 2, 1]),
                                             (root_parts, [1 / math.sqrt(3), 1 / math.sqrt(2), 1])])  # fmt: skip
def test_each_layer_takes_its_part_of_what_is_still_missing(part: object, parts: list[float]) -> None:
    model = tiny("gpt2")
    before, targets = model.fingerprint(), hidden(model, 2) + 0.1 * torch.randn(3, model.d_model)
    written, missing = write_layers(model, LAYERS, prompts(model), targets, exactly, part=part)
    assert model.fingerprint() == before
    assert [own.layer for own in written] == list(LAYERS)
    for own, share in zip(written, parts, strict=True):
        torch.testing.assert_close(own.residual, share * (targets - own.reached), rtol=1e-3, atol=1e-5)
        weight = model.weight(own.layer)
        torch.testing.assert_close(own.values, own.keys @ weight + own.residual, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(written[0].reached, hidden(model, 2), rtol=1e-3, atol=1e-4)
    assert missing.norm() < 0.05 * (targets - written[0].reached).norm(), "the last layer takes all that is left"


def test_what_was_reached_is_measured_with_the_layers_below_as_written() -> None:
    model = tiny("gpt2")
    targets = hidden(model, 2) + 0.1 * torch.randn(3, model.d_model)
    written, missing = write_layers(model, LAYERS, prompts(model), targets, exactly)
    with model.with_weight(0, weight_after(model.weight(0), written[0].change), "out"):
        torch.testing.assert_close(written[1].reached, hidden(model, 2), rtol=1e-3, atol=1e-4)
        with model.with_weight(1, weight_after(model.weight(1), written[1].change), "out"):
            torch.testing.assert_close(written[2].reached, hidden(model, 2), rtol=1e-3, atol=1e-4)
            with model.with_weight(2, weight_after(model.weight(2), written[2].change), "out"):
                torch.testing.assert_close(missing, targets - hidden(model, 2), rtol=1e-2, atol=1e-4)


def test_the_model_is_as_it_was_after_an_error() -> None:
    model = tiny("gpt2")
    before = model.fingerprint()

    def fail_at_last(layer: int, keys: Tensor, residual: Tensor) -> LayerChange:
        if layer == LAYERS[-1]:
            raise ZeroDivisionError
        return exactly(layer, keys, residual)

    with pytest.raises(ZeroDivisionError):
        write_layers(model, LAYERS, prompts(model), hidden(model, 2) + 1, fail_at_last)
    assert model.fingerprint() == before


def test_the_sum_is_taken_in_float64_and_rounded_once() -> None:
    weight = torch.full((1, 1), 1.0)
    change = LayerChange(torch.full((1, 3), 2.0**-13), torch.full((3, 1), 2.0**-13))  # 3 · 2⁻²⁶, below half a step each
    assert float(weight_after(weight, change)) == 1.0 + 0.0
    many = LayerChange(torch.full((1, 4), 2.0**-13), torch.full((4, 1), 2.0**-12))  # 2⁻²³ in all, one step
    assert float(weight_after(weight, many)) == 1.0 + 2.0**-23
    assert weight_after(weight.bfloat16(), many).dtype == torch.float32
