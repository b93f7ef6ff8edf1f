"""Half-precision weights on a processor that has no instructions to multiply them.

There torch emulates such products, up to two hundred times slower than float32 (docs/log.md). Here the weights are
widened to float32 a piece at a time, multiplied, and every sum is rounded once, as the hardware that has the
instructions does: weights in half precision, accumulation in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from factedit.models.adapter import EditableModel

ENTRIES_AT_ONCE = 1 << 20  # of the weights, widened: a piece stays in the cache
MULTIPLIES_BFLOAT16 = ("AVX512", "SVE")  # processors, as torch calls them


def emulated(weight: Tensor) -> bool:
    """Whether torch would emulate products with this weight."""
    if weight.device.type != "cpu" or weight.dtype not in (torch.bfloat16, torch.float16):
        return False
    capable = torch.backends.cpu.get_cpu_capability().startswith(MULTIPLIES_BFLOAT16)
    return weight.dtype == torch.float16 or not capable


def widened(tensor: Tensor) -> Tensor:
    """The tensor in float32 where torch would emulate products with it, else itself."""
    return tensor.float() if emulated(tensor) else tensor


def summing(dtype: torch.dtype) -> torch.dtype:
    """The type in which sums and changes are kept, of weights in this type: at least float32."""
    return torch.promote_types(dtype, torch.float32)


@contextmanager
def wide_products(model: EditableModel, layers: range) -> Iterator[None]:
    """Inside, these layers' linear modules accumulate in float32 where torch would emulate; no parameter gets a
    gradient from them. Their own `forward` is back on leaving; one that somebody else replaced is left alone.
    """
    if not emulated(model.lm.get_input_embeddings().weight):
        yield
        return
    inside = (module for layer in layers for module in model.layers[layer].modules())
    linear: list[Any] = [m for m in inside if type(m) in (nn.Linear, Conv1D) and "forward" not in m.__dict__]
    try:
        for module in linear:
            module.forward = partial(_forward, module)
        yield
    finally:
        for module in linear:
            module.__dict__.pop("forward", None)


def _forward(module: Any, x: Tensor) -> Tensor:
    weight = module.weight.T if isinstance(module, Conv1D) else module.weight
    return product(x, weight, module.bias)


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x Wᵀ + b`, `[…, d_in]` and `[d_out, d_in]` to `[…, d_out]`, in the type of x; gradients reach x alone."""
    found: Tensor = _Product.apply(x, weight.detach(), None if bias is None else bias.detach())
    return found


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        rows = x.reshape(-1, x.shape[-1]).float()
        out = x.new_empty(len(rows), len(weight))
        for part in _parts(weight):
            sums = (weight[part].float() @ rows.T).T  # the faster way round for few rows
            out[:, part] = sums if bias is None else sums + bias[part]
        return out.unflatten(0, x.shape[:-1]) if x.ndim != 2 else out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        [grad], [weight] = grads, ctx.saved_tensors
        wide = grad.float()
        sums = wide.new_zeros(*grad.shape[:-1], weight.shape[1])
        for part in _parts(weight):
            sums += wide[..., part] @ weight[part].float()
        return sums.to(grad.dtype), None, None


def _parts(weight: Tensor) -> Iterator[slice]:
    """Rows of a weight in pieces that are widened together."""
    count = max(1, ENTRIES_AT_ONCE // weight.shape[1])
    for begin in range(0, len(weight), count):
        yield slice(begin, begin + count)
