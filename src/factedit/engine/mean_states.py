"""What a model makes of a whole text: the mean of its last layer's hidden states, to find texts that are alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from factedit.engine import budget
from factedit.engine.generate import start_token
from factedit.engine.resume import Segment, align, embed
from factedit.models.adapter import EditableModel
from factedit.models.positions import check_fits, tokenize_all


@torch.no_grad()
def mean_states(model: EditableModel, texts: Sequence[str]) -> Tensor:
    """Return per text the mean hidden state after the last layer over its tokens, `[texts, d_model]`, float32.

    Every text begins with a start token, whose own state, far larger than all others in most models, does not count.

    Args:
        model: with whatever hooks are active.
        texts: at least one.

    Raises:
        RequestError: a text without tokens, or longer than the context with its start token.
    """
    start = start_token(model)
    rows = [ids if ids[0] == start else (start, *ids) for ids in (text.ids for text in tokenize_all(model, texts))]
    rows = [ids if len(ids) > 1 else (start, *ids) for ids in rows]
    check_fits(model, max(map(len, rows)), "A text with its start token")
    means = torch.empty(len(rows), model.d_model)
    order = sorted(range(len(rows)), key=lambda n: len(rows[n]))
    count = max(1, budget.columns_scored(model) // len(rows[order[-1]]))
    for begin in range(0, len(order), count):
        part = order[begin : begin + count]
        batch = align([rows[n] for n in part], device=model.device)
        segment = Segment(model, batch.mask, embeddings=embed(model, batch.ids))
        hidden = segment.run(segment.start, range(model.n_layer)).float()
        counted = batch.mask.clone()
        counted[:, 0] = False
        sums = hidden.masked_fill(~counted[..., None], 0.0).sum(1)  # padding may hold anything
        means[part] = (sums / counted.sum(1, keepdim=True)).cpu()
    return means
