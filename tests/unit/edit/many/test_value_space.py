"""What a matrix must give more where a norm stands behind it, against the norm itself."""

from __future__ import annotations

import pytest
import torch

from conftest import randomised, tiny, tiny_tokenizer
from factedit.edit.many.value_space import into_value_space
from factedit.errors import EditError
from factedit.models.adapter import EditableModel
from tiny_families import tiny_family_lm

WITH_NORM = ("gemma2", "gemma3_text", "olmo2", "glm4")


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_scales(family: str, *closed: int) -> tuple[EditableModel, torch.nn.Module]:
    """A model whose norm behind the matrix of layer 1 scales every entry differently, some by 0; and the norm."""
    model = tiny(family)
    norm = model.layers[1].get_submodule(model.family.mlp_out)
    weight = 1 + 0.5 * random(7, model.d_model)
    weight[list(closed)] = 0.0
    with torch.no_grad():
        norm.weight.copy_(weight - 1 if family.startswith("gemma") else weight)  # Gemma's is 1 + weight
    return model, norm


@pytest.mark.parametrize("closed", [(), (3, 9)])
@pytest.mark.parametrize("family", WITH_NORM)
@torch.no_grad()
def test_no_other_output_comes_nearer_to_what_is_wanted(family: str, closed: tuple[int, ...]) -> None:
    model, norm = with_scales(family, *closed)
    values, residual = random(1, 5, model.d_model), 0.3 * random(2, 5, model.d_model)
    wanted = norm(values) + residual
    more = into_value_space(model, 1, values, residual)
    gap = (norm(values + more) - wanted).norm(dim=1)
    assert (gap < residual.norm(dim=1)).all()
    for seed in range(30):
        for size in (0.01, 0.3):
            near = values + more + size * random(seed, 5, model.d_model)
            near[:, list(closed)] = 0.0
            room = values.square().sum(1, keepdim=True) - values[:, list(closed)].square().sum(1, keepdim=True)
            near = near * (room / near.square().sum(1, keepdim=True)).sqrt()
            near[:, list(closed)] = values[:, list(closed)]
            assert ((norm(near) - wanted).norm(dim=1) > gap - 1e-5).all()
    assert torch.allclose(more[:, list(closed)], torch.zeros(5, len(closed)), atol=1e-6)


@pytest.mark.parametrize("family", WITH_NORM)
@torch.no_grad()
def test_where_nothing_is_missing_the_matrix_gives_nothing_more(family: str) -> None:
    model = tiny(family)
    values = random(1, 3, model.d_model)
    more = into_value_space(model, 1, values, torch.zeros_like(values))
    assert more.norm() < 1e-3 * values.norm()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_without_a_norm_the_residual_is_the_matrixs_own(family: str) -> None:
    model = tiny(family)
    residual = random(2, 3, model.d_model)
    assert into_value_space(model, 1, random(1, 3, model.d_model), residual) is residual


@torch.no_grad()
def test_what_is_multiplied_on_its_way_is_divided_before() -> None:
    """Granite multiplies what an MLP gives: the stream must receive the residual itself."""
    model = EditableModel(randomised(tiny_family_lm("granite")), tiny_tokenizer())
    residual = random(2, 1, model.d_model)
    more = into_value_space(model, 1, random(1, 1, model.d_model), residual)
    states = []
    for extra in (0.0, more):
        with model.on_matrix(1, lambda _key, value, extra=extra: value + extra):
            states.append(model.lm(input_ids=torch.tensor([[5, 9, 7]]), output_hidden_states=True).hidden_states[2])
    torch.testing.assert_close(states[1] - states[0], residual.expand(1, 3, -1), atol=1e-4, rtol=1e-4)


def test_a_matrix_beside_experts_cannot_promise_it() -> None:
    model = EditableModel(randomised(tiny_family_lm("llama4_text")), tiny_tokenizer())
    values, residual = random(1, 3, model.d_model), random(2, 3, model.d_model)
    assert into_value_space(model, 0, values, residual) is residual, "a dense layer"
    with pytest.raises(EditError, match=r"Layer 1 of model has experts beside its matrix.*rome"):
        into_value_space(model, 1, values, residual)


def test_a_norm_that_lets_nothing_through_is_refused() -> None:
    model, _ = with_scales("olmo2", *range(32))
    with pytest.raises(EditError, match=r"layer 1 lets nothing through. Edit another layer"):
        into_value_space(model, 1, random(1, 3, model.d_model), random(2, 3, model.d_model))
