"""Half-precision weights multiplied in float32: one rounding, torch's own gradients, and nothing left behind."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from factedit.edit.method import make_method
from factedit.engine.half import emulated, product, times
from factedit.engine.products import own_products
from factedit.engine.resume import Segment, embed, read_out
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.stats.provide import Moments


@pytest.fixture
def no_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that multiplies float32 alone, whatever the tests run on."""
    monkeypatch.setattr("factedit.engine.half._multiplies", lambda _dtype: False)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def in_type(model: EditableModel, dtype: torch.dtype) -> EditableModel:
    """A copy of the model in another type."""
    return EditableModel(copy.deepcopy(model.lm).to(dtype), model.tokenizer)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("biased", [True, False])
def test_every_sum_is_rounded_once(dtype: torch.dtype, biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factedit.engine.half.ENTRIES_AT_ONCE", 3 * 200)  # three rows of the weight at a time
    x, weight = random(2, 5, 200).to(dtype).requires_grad_(), random(7, 200, seed=1).to(dtype)
    bias = random(7, seed=2).to(dtype) if biased else None
    found = product(x, weight, bias)
    exact = nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    torch.testing.assert_close(found, exact.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)
    assert (found == exact.to(dtype)).double().mean() > 0.95  # all but where float32 crosses a rounding boundary
    slope = random(2, 5, 7, seed=3).to(dtype)
    [gradient] = torch.autograd.grad(found, x, slope)
    torch.testing.assert_close(gradient, (slope.double() @ weight.double()).to(dtype), rtol=1e-2, atol=1e-6)


def test_only_where_torch_would_emulate(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {kind: torch.ones(2, 2, dtype=kind) for kind in (torch.float32, torch.bfloat16, torch.float16)}
    monkeypatch.setattr("factedit.engine.half._multiplies", lambda dtype: dtype == torch.bfloat16)
    assert [emulated(weight) for weight in kinds.values()] == [False, False, True]
    assert not emulated(torch.ones(2, dtype=torch.float16, device="meta"))
    monkeypatch.undo()
    for kind in (torch.bfloat16, torch.float16):
        assert isinstance(emulated(kinds[kind]), bool), "torch still answers"


@pytest.mark.usefixtures("no_instructions")
def test_the_other_way_round() -> None:
    x, weight = random(4, 30).bfloat16().requires_grad_(), random(30, 9, seed=1).bfloat16()
    found = times(x, weight)
    torch.testing.assert_close(found, (x.double() @ weight.double()).bfloat16(), rtol=1e-2, atol=1e-6)
    slope = random(4, 9, seed=2).bfloat16()
    [gradient] = torch.autograd.grad(found, x, slope)
    torch.testing.assert_close(gradient, (slope.double() @ weight.double().T).bfloat16(), rtol=2e-2, atol=1e-6)
    assert torch.equal(times(x.float(), weight.float()), x.float() @ weight.float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_engine_gives_what_the_model_gives(
    editable_family: EditableModel, dtype: torch.dtype, no_instructions: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = in_type(editable_family, dtype)
    ids = torch.arange(3, 11)[None]
    segment = Segment(model, torch.ones_like(ids, dtype=torch.bool), embeddings=embed(model, ids))
    seen: list[int] = []
    monkeypatch.setattr("factedit.engine.half.product", lambda *own: seen.append(1) or product(*own))
    with torch.no_grad():
        found = read_out(model, segment.run(segment.start, range(model.n_layer))[0])
        native = model.lm(input_ids=ids).logits[0]
    if type(model.matrix(0).module) in (nn.Linear, Conv1D):
        assert len(seen) >= 4 * model.n_layer  # the layers, each with its matrices
    else:
        assert not seen  # Falcon's is a class of its own, and left alone
    scale = float(native.float().abs().max())
    torch.testing.assert_close(found.float(), native.float(), rtol=0, atol=4 * torch.finfo(dtype).eps * scale)


@pytest.mark.usefixtures("no_instructions")
def test_forwards_are_back_after_an_exception(tiny_gpt2: EditableModel) -> None:
    model = in_type(tiny_gpt2, torch.bfloat16)
    inside = [module for layer in model.layers for module in layer.modules()]
    patched = model.matrix(1).module
    patched.forward = mine = lambda x: x  # somebody else's
    seen = []

    def fail() -> None:
        with own_products(model, range(1, 3)):
            seen.append([layer for layer in range(4) if "forward" in model.matrix(layer).module.__dict__])
            assert patched.forward is mine
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert seen == [[1, 2]]
    assert [module for module in inside if "forward" in module.__dict__] == [patched]


@pytest.mark.usefixtures("no_instructions")
@pytest.mark.parametrize(("name", "told"), [("ft", "update_norm"), ("kn", "attribution")])
def test_methods_take_gradients_in_half_precision(tiny_gpt2: EditableModel, name: str, told: str) -> None:
    request = EditRequest(subject="Paris", prompt="{} is the capital of", target_new="Seattle", target_true="France")
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        model = in_type(in_type(tiny_gpt2, torch.bfloat16), dtype)  # the same weights
        [edit] = make_method(name, model, Moments()).edit([request]).edits
        found.append(edit.told_of(0)[told])
    assert found[0] == pytest.approx(found[1], rel=0.05)
    assert found[0] > 0
