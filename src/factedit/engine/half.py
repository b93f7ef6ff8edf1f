"""Half precision: weights in it, sums and changes in float32.

On a processor without instructions to multiply it torch emulates such products, a hundred times slower than float32
the gradient's way round (docs/log.md). There the weights are widened to float32 a piece at a time, multiplied, and
every sum is rounded once, as hardware with the instructions does. What is kept of an edit (keys, values, ΔW) is at
least float32 on every device.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from factedit.engine.differentiable import applied

ENTRIES_AT_ONCE = 1 << 20  # of the weights, widened: a piece stays in the cache
HALF = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}  # what torch answers


def emulated(weight: Tensor) -> bool:
    """Return whether torch would emulate products with this weight."""
    return weight.device.type == "cpu" and weight.dtype in HALF and not _multiplies(weight.dtype)


def _multiplies(dtype: torch.dtype) -> bool:
    """Return whether oneDNN has products of this type here; torch asks it so itself, by a function that is not
    public.
    """
    asked = getattr(torch.ops.mkldnn, HALF[dtype], None) if torch.backends.mkldnn.is_available() else None
    return asked is not None and bool(asked())


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which sums and changes are kept, of weights in this type."""
    return torch.promote_types(dtype, torch.float32)


def times(x: Tensor, weight: Tensor) -> Tensor:
    """Return `x W`, `[…, d_in]` and `[d_in, d_out]` to `[…, d_out]`; gradients reach x alone."""
    return product(x, weight.T, None) if emulated(weight) else x @ weight.detach()


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `x Wᵀ + b`, `[…, d_in]` and `[d_out, d_in]` to `[…, d_out]`, in the type of x; gradients reach x alone."""
    return applied(_Product, x, weight.detach(), None if bias is None else bias.detach())


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        rows = x.reshape(-1, x.shape[-1]).float()
        out = x.new_empty(len(rows), len(weight))
        for part in row_slices(weight, ENTRIES_AT_ONCE):
            sums = (weight[part].float() @ rows.T).T  # the faster way round for few rows
            out[:, part] = sums if bias is None else sums + bias[part]
        return out.view(*x.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        [grad], [weight] = grads, ctx.saved_tensors
        wide = grad.float()
        sums = wide.new_zeros(*grad.shape[:-1], weight.shape[1])
        for part in row_slices(weight, ENTRIES_AT_ONCE):
            sums += wide[..., part] @ weight[part].float()
        return sums.to(grad.dtype), None, None


def row_slices(matrix: Tensor, entries: int) -> Iterator[slice]:
    """Yield slices of a matrix's rows of about so many entries, to stay in the cache; on an accelerator all at once."""
    count = max(1, entries // matrix.shape[1]) if matrix.device.type == "cpu" else len(matrix)
    for begin in range(0, len(matrix), count):
        yield slice(begin, begin + count)
