"""Layers that go on from a state (Mamba, linear attention, convolutions), resumed exactly.

A state is what all tokens before have left, and cannot be cut back to fewer of them. What is kept of such a module is
therefore what it read; resumed, it reads all tokens from the first on once more, and the outputs of the segment's own
are taken. Its layer's MLP, norms and hooks see the segment's tokens alone, as in any other layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from factedit.models.matrix import forward_replaced

_CACHES = ("cache_params", "past_key_values")  # what families call it


class ReadBefore:
    """What a module with a state has read.

    Attributes:
        past: `[rows, 1, tokens, d_model]` of the tokens before a segment; None where there are none.
        new: the same with the segment's tokens, once it was run with `keep`.
    """

    def __init__(self, past: Tensor | None) -> None:
        self.past = past
        self.new: Tensor | None = None

    @contextmanager
    def in_place(self, module: nn.Module, mask: Tensor | None, *, keep: bool) -> Iterator[None]:
        """Inside, the module reads the tokens before as well; its own `forward` is back on leaving.

        Args:
            module: the module with the state.
            mask: `[rows, past + tokens]`, True where there is a token; None where there is no padding.
            keep: remember what it read for a later segment.
        """
        original = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            hidden = args[0] if args else kwargs.pop("hidden_states")
            whole = hidden if self.past is None else torch.cat([self.past[:, 0], hidden], 1)
            if keep:
                self.new = whole.unsqueeze(1)
            kwargs = {name: value for name, value in kwargs.items() if name not in _CACHES}
            output = original(whole, *args[1:], **{**kwargs, "attention_mask": None if mask is None else mask.long()})
            if isinstance(output, tuple):
                return (output[0][:, -hidden.shape[1] :], *output[1:])
            return output[:, -hidden.shape[1] :]

        with forward_replaced(module, forward):
            yield
