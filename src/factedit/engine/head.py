"""The output matrix, read the way a processor likes it.

A vocabulary of 262 144 words makes the output matrix the largest of all, and few positions are read at a time.
`x Wᵀ` with a few rows x and such a W leaves most of a processor idle; the same product taken as `W xᵀ` by oneDNN,
or without it in pieces that stay in the cache, runs at the speed of the hardware (docs/log.md). The numbers are the
same up to the order of summation. Weights in half precision that the processor cannot multiply go through `half.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from factedit.engine.differentiable import applied
from factedit.engine.half import emulated, product
from factedit.engine.products import has_onednn, rows_times
from factedit.models.adapter import EditableModel

WORDS_AT_ONCE = 4096  # rows of the output matrix per product on a processor
FEW_ROWS = 16  # below, the gradient is summed over pieces of the vocabulary


@contextmanager
def tall_head(model: EditableModel) -> Iterator[None]:
    """Inside, the output matrix is multiplied as `W xᵀ`, or as `half.py` does; its own `forward` is back on leaving.

    A head that is not a plain linear layer is left alone.
    """
    head = model.lm.get_output_embeddings()
    if type(head) is not nn.Linear or "forward" in head.__dict__:
        yield
        return

    def forward(x: Tensor) -> Tensor:
        if emulated(head.weight):
            return product(x, head.weight, head.bias)
        logits = applied(_Tall, x.reshape(-1, x.shape[-1]), head.weight.detach())
        logits = logits if head.bias is None else logits + head.bias.detach()
        return logits if x.ndim == 2 else logits.unflatten(0, x.shape[:-1])

    head.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del head.__dict__["forward"]


class _Tall(torch.autograd.Function):
    """`x Wᵀ`, `[n, d_model]` and `[vocab, d_model]` to `[n, vocab]`, laid out with the words outermost."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        if x.device.type != "cpu":
            return (weight @ x.T).T
        if has_onednn(weight):
            return rows_times(weight, x).T
        out = x.new_empty(weight.shape[0], x.shape[0])
        for begin in range(0, len(weight), WORDS_AT_ONCE):
            torch.mm(weight[begin : begin + WORDS_AT_ONCE], x.T, out=out[begin : begin + WORDS_AT_ONCE])
        return out.T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        [grad], [weight] = grads, ctx.saved_tensors
        if len(grad) >= FEW_ROWS or grad.device.type != "cpu":
            return (weight.T @ grad.T).T, None
        whole = len(weight) - len(weight) % WORDS_AT_ONCE
        pieces = grad[:, :whole].unflatten(1, (-1, WORDS_AT_ONCE)).transpose(0, 1)
        whole_pieces = torch.bmm(pieces, weight[:whole].unflatten(0, (-1, WORDS_AT_ONCE))).sum(0)
        return whole_pieces + grad[:, whole:] @ weight[whole:], None
