"""What a matrix must give more where a norm stands behind it, against the norm itself."""

from __future__ import annotations

import pytest
import torch

from conftest import tiny
from factedit.edit.many.value_space import into_value_space
from factedit.errors import EditError

WITH_NORM = ("gemma2", "gemma3_text", "olmo2", "glm4")


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", WITH_NORM)
@torch.no_grad()
def test_the_stream_receives_the_direction_that_was_wanted(family: str) -> None:
    model = tiny(family)
    values, residual = random(1, 5, model.d_model), 0.3 * random(2, 5, model.d_model)
    norm = model.layers[1].get_submodule(model.family.mlp_out)
    wanted = norm(values) + residual
    received = norm(values + into_value_space(model, 1, values, residual))
    cosine = torch.nn.functional.cosine_similarity(received, wanted, dim=1)
    assert cosine.min() > 1 - 1e-5
    # the norm's output has one size, so no output of the matrix comes nearer to what was wanted
    for seed in range(20):
        other = norm(values + into_value_space(model, 1, values, residual) + 0.1 * random(seed, 5, model.d_model))
        gap = torch.nn.functional.cosine_similarity(other, wanted, dim=1)
        assert (gap <= cosine + 1e-6).all()


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


def test_a_norm_that_lets_nothing_through_is_refused() -> None:
    model = tiny("olmo2")
    norm = model.layers[1].get_submodule(model.family.mlp_out)
    with torch.no_grad():
        norm.weight[:2] = 0.0
    with pytest.raises(EditError, match=r"layer 1 is 0 for 2 of 32 entries.*Edit another layer"):
        into_value_space(model, 1, random(1, 3, model.d_model), random(2, 3, model.d_model))
