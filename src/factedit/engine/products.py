"""How a processor takes the products of the layers' matrices while the engine runs them.

torch's own product of a few dozen to a few hundred rows with a matrix leaves a good part of a processor idle; oneDNN's,
reached through the operation that torch's compiler emits (not a public function), takes 10 to 45 % less time forward
and back (docs/log.md). Weights in half precision that the processor cannot multiply go through `half.py`. The numbers
are the same up to the order of summation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from factedit.engine import half
from factedit.engine.differentiable import applied
from factedit.models.adapter import EditableModel

SMALL = 1 << 16  # entries of a matrix, below which calling oneDNN takes longer than it saves
Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@contextmanager
def own_products(model: EditableModel, layers: range) -> Iterator[None]:
    """Inside, products of these layers' matrices are taken the way the processor does them best.

    Of modules that are exactly `nn.Linear` or `Conv1D`; others (Falcon's own class, stacked experts) are left to torch,
    as is every module on another device and one whose parameters need a gradient. Their own `forward` is back on
    leaving; one that somebody else replaced is left alone.
    """
    replaced: list[Any] = []
    try:
        for module in _plain(model, layers) if model.device.type == "cpu" else ():
            product = _product_for(module)
            if product is not None:
                module.forward = partial(_forward, product, module)
                replaced.append(module)
        yield
    finally:
        for module in replaced:
            module.__dict__.pop("forward", None)


def _plain(model: EditableModel, layers: range) -> Iterator[Any]:
    for layer in layers:
        for module in model.layers[layer].modules():
            if type(module) in (nn.Linear, Conv1D) and "forward" not in module.__dict__:
                yield module


def _product_for(module: Any) -> Product | None:
    if half.emulated(module.weight):
        return half.product
    needs_gradient = torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters())
    return product if has_onednn(module.weight) and module.weight.numel() >= SMALL and not needs_gradient else None


def _forward(product: Product, module: Any, x: Tensor) -> Tensor:
    return product(x, module.weight.T if isinstance(module, Conv1D) else module.weight, module.bias)


def has_onednn(weight: Tensor) -> bool:
    """Return whether torch offers oneDNN's product for this weight."""
    return (
        weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `x Wᵀ + b` by oneDNN, `[…, d_in]` and `[d_out, d_in]` to `[…, d_out]`; gradients reach x alone."""
    return applied(_OneDnn, x, weight.detach(), None if bias is None else bias.detach())


def rows_times(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `[n, d_in]` and `[d_out, d_in]` to `[n, d_out]` by oneDNN; rows contiguous, the weight or its transpose
    too.
    """
    outputs: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return outputs


class _OneDnn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        return rows_times(rows, weight, bias).view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        [grad], [weight] = grads, ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1]).contiguous()
        return rows_times(rows, weight.T).view(*grad.shape[:-1], weight.shape[1]), None, None
