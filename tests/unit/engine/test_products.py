"""Products by oneDNN are torch's own, forward and back, and nothing of them stays in the model."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from conftest import tiny
from factedit.engine import products
from factedit.engine.products import has_onednn, own_products, product
from factedit.engine.resume import Segment, align, embed

needs_onednn = pytest.mark.skipif(not has_onednn(torch.empty(1)), reason="torch has no oneDNN here")


@needs_onednn
@pytest.mark.parametrize("shape", [(7, 5), (320, 33), (257, 643)])
@pytest.mark.parametrize("rows", [(1,), (3, 5), (2, 70)])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_same_as_torch(shape: tuple[int, int], rows: tuple[int, ...], transposed: bool, with_bias: bool) -> None:
    torch.manual_seed(0)
    weight = torch.randn(*shape[::-1]).T if transposed else torch.randn(*shape)
    bias = torch.randn(shape[0]) if with_bias else None
    x = torch.randn(*rows, shape[1]).transpose(0, -2).requires_grad_()
    grad = torch.randn(*x.shape[:-1], shape[0])
    found, expected = product(x, weight, bias), nn.functional.linear(x, weight, bias)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    slopes = [torch.autograd.grad(y, x, grad)[0] for y in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-4)


@needs_onednn
@pytest.mark.parametrize("family", ["gpt2", "llama", "falcon", "gemma3_text"])
def test_a_model_run_by_it(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = tiny(family), [[5, 17, 99, 40, 7], [8, 9, 30]]
    batch = align(ids)
    taken: list[int] = []
    monkeypatch.setattr(products, "SMALL", 1)
    monkeypatch.setattr(products, "product", lambda x, w, b: (taken.append(w.numel()), product(x, w, b))[1])
    with model.frozen():
        segment = Segment(model, batch.mask, embeddings=embed(model, batch.ids))
        start = segment.start.detach().requires_grad_()
        own = segment.run(start, range(model.n_layer))
        assert taken or family == "falcon", "Falcon has a class of its own, which is left to torch"
        monkeypatch.setattr(products, "SMALL", 1 << 40)
        count = len(taken)
        expected = segment.run(start, range(model.n_layer))
        assert len(taken) == count
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)
        slopes = [torch.autograd.grad(out.square().sum(), start)[0] for out in (own, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-3, atol=1e-4)


def test_what_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2")
    monkeypatch.setattr(products, "SMALL", 1)
    linear = [m for m in model.layers[1].modules() if type(m) in (nn.Linear, Conv1D)]
    own = lambda x: x  # noqa: E731
    linear[0].forward = own
    with own_products(model, range(1, 2)):
        assert linear[0].forward is own, "somebody else's"
        assert all("forward" not in m.__dict__ for m in linear[1:]), "the weights need gradients"
        assert all("forward" not in m.__dict__ for m in model.layers[0].modules()), "another layer's"
    with model.frozen(), own_products(model, range(1, 2)):
        assert all(("forward" in m.__dict__) == has_onednn(m.weight) for m in linear[1:])
    assert linear[0].__dict__.pop("forward") is own
    assert all("forward" not in m.__dict__ for m in linear)
