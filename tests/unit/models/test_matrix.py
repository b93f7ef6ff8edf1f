"""A matrix of an MLP: `[d_in, d_out]` however it is stored, watched and replaced, and the same bits afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from conftest import tiny
from factedit.errors import EditError
from factedit.models.adapter import EditableModel
from factedit.models.matrix import run_once, shape_of_calls

IDS = torch.tensor([[5, 9, 200, 41], [7, 8, 11, 40]])


def seen(model: EditableModel, layer: int, which: str) -> tuple[Tensor, Tensor]:
    """What the matrix reads and gives in a plain forward pass, `[batch, tokens, …]`."""
    calls: list[tuple[Tensor, Tensor]] = []
    with model.matrix(layer, which).watched(lambda key, value: calls.append((key.clone(), value.clone()))):
        model.lm(input_ids=IDS)
    [call] = calls
    return call


@torch.no_grad()
def test_what_it_gives_is_what_it_reads_times_its_values_and_its_bias(editable_family: EditableModel) -> None:
    for matrix in editable_family.matrices_of(1):
        key, value = seen(editable_family, *matrix.place)
        expected = key @ matrix.values + (0 if matrix.bias is None else matrix.bias)
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
        assert (key.shape, value.shape) == ((2, 4, matrix.shape[0]), (2, 4, matrix.shape[1]))


def test_its_name_is_that_of_the_parameter_that_stores_it(editable_family: EditableModel) -> None:
    for matrix in editable_family.matrices_of(2):
        assert editable_family.lm.state_dict()[matrix.name].data_ptr() == matrix.values.data_ptr()
        assert matrix.turned(matrix.turned(matrix.values)).data_ptr() == matrix.values.data_ptr()
        assert matrix.norm == pytest.approx(float(editable_family.lm.state_dict()[matrix.name].norm()), rel=1e-6)


@torch.no_grad()
def test_a_value_that_the_hook_gives_takes_the_values_place() -> None:
    model = tiny("llama")
    plain = model.lm(input_ids=IDS).logits
    with model.matrix(1, "out").watched(lambda _key, value: torch.zeros_like(value)):
        silenced = model.lm(input_ids=IDS).logits
    with model.matrix(1, "out").replaced(torch.zeros(model.d_mlp, model.d_model)):
        zeroed = model.lm(input_ids=IDS).logits
    torch.testing.assert_close(silenced, zeroed)
    assert not torch.allclose(silenced, plain)
    assert torch.equal(model.lm(input_ids=IDS).logits, plain)


def test_another_matrix_is_there_inside_and_the_same_bits_afterwards() -> None:
    model = tiny("gpt2")
    matrix, before = model.matrix(2), model.fingerprint()
    kept, new = matrix.parameter.data_ptr(), torch.randn(matrix.shape)
    with matrix.replaced(new):
        assert torch.equal(matrix.values, new)
        assert model.fingerprint() != before
    assert matrix.parameter.data_ptr() == kept
    assert model.fingerprint() == before
    with pytest.raises(RuntimeError, match="inside"), matrix.replaced(new):
        raise RuntimeError("inside")
    assert matrix.parameter.data_ptr() == kept


def test_what_does_not_fit_or_is_not_finite_is_refused() -> None:
    model = tiny("gpt2")
    matrix, before = model.matrix(1), model.fingerprint()
    with pytest.raises(EditError, match=r"is \(2, 3\); layer 1 needs \(128, 32\)"), matrix.replaced(torch.zeros(2, 3)):
        pass
    broken = torch.zeros(matrix.shape)
    broken[0, 0] = float("inf")
    with pytest.raises(EditError, match="layer 1 holds values that are not finite"), matrix.replaced(broken):
        pass
    assert model.fingerprint() == before


def test_in_half_precision_the_new_matrix_is_rounded_to_the_models_type() -> None:
    model = tiny("llama")
    model.lm.to(torch.bfloat16)
    new = torch.randn(model.d_mlp, model.d_model)
    with model.matrix(0).replaced(new):
        assert model.matrix(0).values.dtype == torch.bfloat16
        assert torch.equal(model.matrix(0).values, new.to(torch.bfloat16))


@torch.no_grad()
def test_the_shape_of_a_call_is_rows_and_tokens_and_is_gone_afterwards() -> None:
    model = tiny("gpt2")
    with shape_of_calls(model.layers[1]) as shape:
        model.lm(input_ids=IDS)
        assert shape == [2, 4]
        model.lm(input_ids=IDS[:1, :3])
        assert shape == [1, 3]
    assert not model.layers[1]._forward_pre_hooks


def test_a_module_runs_once_inside_and_its_hooks_see_what_it_gave_every_time() -> None:
    module, states = nn.Linear(2, 2), torch.ones(1, 2, requires_grad=True)
    given_to_hooks, kept = list[torch.Tensor](), list[torch.Tensor]()
    right = module(states)
    with run_once(module, kept):
        module.register_forward_hook(lambda _m, _args, given: given_to_hooks.append(given))
        assert torch.equal(module(states), right)
        assert torch.equal(module(5 * states), right), "what it reads is not looked at again"
        assert not given_to_hooks[1].requires_grad
    assert len(given_to_hooks) == 2
    assert "forward" not in module.__dict__
    assert torch.equal(module(5 * states), nn.Linear.forward(module, 5 * states))
    module.forward = patched = lambda given: 3 * given  # somebody else's
    with run_once(module, kept):
        assert torch.equal(module(states), right), "from before"
    assert module.forward is patched
    with pytest.raises(ZeroDivisionError), run_once(module, kept):
        raise ZeroDivisionError
    assert module.forward is patched
