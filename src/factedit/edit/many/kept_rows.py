"""Prompts with their targets, run once up to a layer and then again and again from there, some at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from factedit.edit.target_rows import TargetBatch, TargetRow
from factedit.engine.resume import Segment, align, embed
from factedit.models.adapter import EditableModel

TOKENS_AT_ONCE = 2048


class KeptRows:
    """Rows of which any batch can be run from a layer on.

    Args:
        model: the model; unchanged.
        layer: the first layer that is run again and again.
        rows: prompts and targets.
    """

    @torch.no_grad()
    def __init__(self, model: EditableModel, layer: int, rows: Sequence[TargetRow]) -> None:
        self._model, self._layer, self.rows = model, layer, tuple(rows)
        self._hidden: dict[int, Tensor] = {}
        order = sorted(range(len(rows)), key=lambda n: len(rows[n].ids))
        while order:
            step = max(1, TOKENS_AT_ONCE // len(rows[order[-1]].ids))
            part, order = order[-step:], order[:-step]
            batch = align([rows[n].ids for n in part], device=model.device)
            segment = Segment(model, batch.mask, embeddings=embed(model, batch.ids))
            hidden = segment.run(segment.start, range(layer))
            for place, n in enumerate(part):
                self._hidden[n] = hidden[place, : len(rows[n].ids)].clone()

    def batch(self, which: Sequence[int]) -> TargetBatch:
        """Return some of the rows, ready to be run from the layer on."""
        hidden = torch.nn.utils.rnn.pad_sequence([self._hidden[n] for n in which], batch_first=True)
        return TargetBatch(self._model, self._layer, [self.rows[n] for n in which], hidden)
