"""What KE reads, and MEND's network once it has learned something, written out (arXiv 2104.08164, 2110.11309)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import tiny
from factedit.edit.factors import Factors
from factedit.edit.hypernetwork import embedded_sentences
from factedit.edit.network_mend import MendNetwork, MendSettings
from factedit.edit.target_rows import TargetBatch, target_row
from factedit.models.adapter import EditableModel
from plain import encode, token_at

ASKED = [("Paris is in", "Seattle"), ("The mother tongue of Danielle Darrieux is", "Москва"), ("LeBron James", "the")]


@pytest.mark.parametrize("start", [False, True])
def test_ke_reads_the_old_answer_then_the_new_one_then_the_prompt(start: bool) -> None:
    """ "old >> new || prompt" in the model's own word embeddings, old being the first token that the model gives."""
    model = tiny("gpt2", start=start)
    batch = TargetBatch(model, 1, [target_row(model, prompt, target) for prompt, target in ASKED])
    found, mask = embedded_sentences(batch)
    words = model.lm.transformer.wte.weight.detach()
    rows = [sentence(model, prompt, target) for prompt, target in ASKED]
    assert mask.sum(1).tolist() == [len(row) for row in rows]
    for n, row in enumerate(rows):
        assert mask[n, : len(row)].all(), "padding stands at the end"
        torch.testing.assert_close(found[n, : len(row)], words[row])


@torch.no_grad()
def sentence(model: EditableModel, prompt: str, target: str) -> list[int]:
    """The token ids of what is read; the target with its leading space, also where that is a token of its own."""
    whole = f"{prompt} {target}"
    ids, first = encode(model, whole), token_at(model, whole, len(prompt))
    old = int(model.lm(input_ids=torch.tensor([ids[:first]])).logits[0, -1].argmax())
    plain = lambda text: model.tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    return [old, *plain(" >> "), *ids[first:], *plain(" || "), *ids[:first]]


SHAPES: dict[Any, tuple[int, int]] = {(1, "out"): (7, 4), (1, "in"): (4, 7), (2, "out"): (7, 4)}


def test_mend_transforms_a_gradients_factors_as_its_formula_says() -> None:
    """h + max(s ⊙ (U V h + b) + o, 0), twice; ΔW = −rate · Σ x̃ δ̃ᵀ; s, o and rate are the matrix's own."""
    random = torch.Generator().manual_seed(3)
    network = MendNetwork(SHAPES, MendSettings(rank=3, rate=0.01), seed=0).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random))
    inputs = {place: torch.randn(2, 5, d_in, generator=random) for place, (d_in, _) in SHAPES.items()}
    slopes = {place: torch.randn(2, 5, d_out, generator=random) for place, (_, d_out) in SHAPES.items()}
    products = network(Factors(inputs, slopes))
    shared = {(7, 4): [(1, "out"), (2, "out")], (4, 7): [(1, "in")]}
    for number, (place, shape) in enumerate(SHAPES.items()):
        hidden = torch.cat([inputs[place], slopes[place]], -1)
        mode = shared[shape].index(place)
        for layer in network.transforms[f"{shape[0]}x{shape[1]}"].layers:
            hidden = transformed(hidden, layer, mode)
        x, slope = hidden.split(list(shape), -1)
        wanted = -network.rates[number] * torch.einsum("rti,rto->rio", x, slope)
        left, right = products[place]
        torch.testing.assert_close(left @ right, wanted, rtol=1e-4, atol=1e-4)


def transformed(hidden: Tensor, layer: Any, mode: int) -> Tensor:
    inside = torch.einsum("wr,rv,btv->btw", layer.u, layer.v, hidden) + layer.bias
    return hidden + torch.relu(layer.scale[mode] * inside + layer.shift[mode])


def test_mends_rates_learn_at_a_rate_of_their_own() -> None:
    network = MendNetwork(SHAPES, MendSettings(rank=3), seed=0)
    rest, rates = network.groups(1e-6, 1e-4)
    assert (rest["lr"], rates["lr"]) == (1e-6, 1e-4)
    assert [p.shape for p in rates["params"]] == [(3,)]  # type: ignore[attr-defined]
    assert len(rest["params"]) + 1 == len(list(network.parameters()))  # type: ignore[arg-type]
