"""A model as factedit holds it: its sizes, its identity, hooks that are gone afterwards, weights that come back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import tiny, tiny_lm, tiny_tokenizer
from factedit.errors import EditError, UnsupportedModel, UsageError
from factedit.models.adapter import EditableModel

IDS = torch.tensor([[5, 9, 200, 41]])


@torch.no_grad()
def logits(model: EditableModel) -> Tensor:
    return model.lm(input_ids=IDS).logits


def hooks(model: EditableModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.lm.modules())


def test_sizes_are_those_of_the_model(editable_family: EditableModel) -> None:
    model = editable_family
    assert (model.n_layer, model.d_model) == (4, 32)
    assert model.vocab == logits(model).shape[-1]
    assert model.weight(0).shape == (model.d_mlp, model.d_model)
    assert (model.device.type, model.dtype) == ("cpu", torch.float32)
    assert model.context_length >= 64


@pytest.mark.parametrize("layer", [-1, 4, 99])
def test_a_layer_that_is_not_there_is_refused(layer: int) -> None:
    model = tiny("gpt2")
    for ask in (model.check_layer, model.weight):
        with pytest.raises(UsageError, match=f"Layer {layer} was asked for; tiny-gpt2 has layers 0 to 3"):
            ask(layer)


def test_any_bit_of_any_weight_is_in_the_fingerprint() -> None:
    model = tiny("llama")
    before = model.fingerprint()
    assert tiny("llama").fingerprint() == before
    for name in ("model.embed_tokens.weight", "model.layers.3.mlp.up_proj.weight", "model.norm.weight"):
        tensor = model.lm.state_dict()[name].view(-1)
        kept = tensor[-1].clone()
        tensor[-1] = torch.nextafter(kept, torch.tensor(9.0))
        assert model.fingerprint() != before, name
        tensor[-1] = kept
    assert model.fingerprint() == before
    assert EditableModel(copy.deepcopy(model.lm).to(torch.bfloat16), tiny_tokenizer()).fingerprint() != before


def test_the_type_that_weights_had_is_found() -> None:
    half = EditableModel(tiny_lm("llama").to(torch.bfloat16), tiny_tokenizer())
    wide = EditableModel(copy.deepcopy(half.lm).float(), tiny_tokenizer())
    assert wide.type_with(half.fingerprint()) == "bfloat16"
    assert wide.type_with(tiny("llama", seed=1).fingerprint()) == ""


def test_the_setup_is_configuration_and_tokenizer_and_no_weight() -> None:
    model = tiny("llama")
    assert tiny("llama", seed=1).setup_fingerprint() == model.setup_fingerprint()
    assert tiny("llama", rms_norm_eps=1e-3).setup_fingerprint() != model.setup_fingerprint()
    assert tiny("llama", start=True).setup_fingerprint() != model.setup_fingerprint()


def test_padding_and_cutting_that_a_call_leaves_in_the_tokenizer_are_no_part_of_the_setup() -> None:
    model = tiny("llama")
    before = model.setup_fingerprint()
    for asked in ({"padding": True}, {"truncation": True, "max_length": 3}):
        model.tokenizer(["Paris", "Paris is in"], **asked)
        left = model.tokenizer.backend_tokenizer.padding, model.tokenizer.backend_tokenizer.truncation
        assert any(left), "the call leaves something behind"
        assert model.setup_fingerprint() == before
        assert (model.tokenizer.backend_tokenizer.padding, model.tokenizer.backend_tokenizer.truncation) == left


def test_inside_unchanged_the_weights_are_hashed_once_and_edits_still_count() -> None:
    model = tiny("gpt2")
    before, counted = model.fingerprint(), []
    original = model._weights.now
    model._weights.now = lambda: counted.append(1) or original()  # type: ignore[method-assign]
    with model.unchanged():
        assert [model.fingerprint() for _ in range(3)] == [before] * 3
        assert len(counted) == 1
        with model.with_weight(1, torch.zeros(model.d_mlp, model.d_model)):
            assert model.fingerprint() != before
        assert model.fingerprint() == before
        assert len(counted) == 2
    model.fingerprint()
    assert len(counted) == 3, "outside nobody knows what a user does"


def raising(model: EditableModel, enter: Callable[[], Any]) -> None:
    def fail_inside() -> None:
        with enter():
            logits(model)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()


def test_hooks_and_weights_are_as_before_also_after_an_error() -> None:
    model = tiny("gpt2")
    plain, before, count = logits(model), model.fingerprint(), hooks(model)
    raising(model, lambda: model.on_output("mlp", 1, torch.zeros_like))
    raising(model, lambda: model.on_output("attn", 1, torch.zeros_like))
    raising(model, lambda: model.on_matrix(1, lambda _key, value: 2 * value))
    raising(model, lambda: model.with_weight(1, torch.zeros(model.d_mlp, model.d_model)))
    raising(model, model.unchanged)
    raising(model, model.frozen)
    assert (hooks(model), model.fingerprint()) == (count, before)
    assert torch.equal(logits(model), plain)


def test_frozen_parameters_ask_for_gradients_again_as_they_did() -> None:
    model = tiny("gpt2")
    first, *others = model.lm.parameters()
    first.requires_grad_(False)
    with model.frozen():
        assert not any(p.requires_grad for p in model.lm.parameters())
    assert not first.requires_grad
    assert all(p.requires_grad for p in others)


def test_nested_weights_come_back_in_turn() -> None:
    model = tiny("gpt2")
    one, two = (torch.full((model.d_mlp, model.d_model), value) for value in (1.0, 2.0))
    before = model.fingerprint()
    with model.with_weight(1, one):
        with model.with_weight(1, two):
            assert torch.equal(model.weight(1), two)
        assert torch.equal(model.weight(1), one)
    assert model.fingerprint() == before
    with pytest.raises(EditError), model.with_weight(1, one[:2]):
        pass


def test_a_family_that_is_refused_has_no_matrix_to_edit() -> None:
    model = tiny("llama")
    model.family = replace(model.family, refused="its matrices are woven")
    with pytest.raises(UnsupportedModel, match=r"\(llama\) cannot be edited: its matrices are woven. It can be traced"):
        model.matrix(1)
    assert model.matrices_of(1) == []
