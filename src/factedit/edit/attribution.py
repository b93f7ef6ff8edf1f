"""Which key entries an answer hangs on: integrated gradients (knowledge neurons, arXiv 2104.08696, section 3.2).

The attribution of entry i of the key of layer l is `key_i / m · Σ_k ∂P[o | key of l scaled by α_k] / ∂key_i` at the
prompt's last position. Tokens before it do not change, so they are run once; per layer the last token alone is
resumed there, one row per α.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from factedit.edit.target_rows import read_losses
from factedit.engine.half import times
from factedit.engine.resume import Past, Segment, align, embed
from factedit.engine.vocabulary import log_probability
from factedit.models.adapter import EditableModel


class Attribution(NamedTuple):
    """What a token's probability hangs on.

    Attributes:
        scores: attributions `[n_layer, d_mlp]`, in probability.
        keys: the keys at the last position, `[n_layer, d_mlp]`.
    """

    scores: Tensor
    keys: Tensor


def attributions(model: EditableModel, ids: Sequence[int], answer: int, *, steps: int) -> Attribution:
    """Return attributions of a token's probability to the key entries at the last position.

    Args:
        model: the model; unchanged.
        ids: the prompt's tokens.
        answer: the token whose probability is taken.
        steps: scales α from 0 to 1, both counted, as in the published program.
    """
    with model.frozen():
        past, inputs = _clean(model, ids)
        mask = torch.ones(steps, len(ids), dtype=torch.bool, device=model.device)
        rows = None if past is None else past.select(torch.zeros(steps, dtype=torch.long, device=model.device))
        segment = Segment(model, mask, past=rows)
        scales = torch.linspace(0, 1, steps, device=model.device)[:, None]
        by_layer = [_of_layer(model, segment, n, hidden, answer, scales) for n, hidden in enumerate(inputs)]
    return Attribution(torch.stack([row.scores for row in by_layer]), torch.stack([row.keys for row in by_layer]))


@torch.no_grad()
def _clean(model: EditableModel, ids: Sequence[int]) -> tuple[Past | None, list[Tensor]]:
    """Return the past of the tokens before the last, and what every layer receives at the last, `[1, 1, d_model]`."""
    batch = align([ids], device=model.device)
    past = None
    if len(ids) > 1:
        before = Segment(model, batch.mask[:, :-1], embeddings=embed(model, batch.ids[:, :-1]))
        before.run(before.start, range(model.n_layer), keep=True)
        past = before.past()
    last = Segment(model, batch.mask, past=past, embeddings=embed(model, batch.ids[:, -1:]))
    hidden, inputs = last.start, []
    for layer in range(model.n_layer):
        inputs.append(hidden)
        hidden = last.run(hidden, range(layer, layer + 1))
    return past, inputs


def _of_layer(
    model: EditableModel, segment: Segment, layer: int, hidden: Tensor, answer: int, scales: Tensor
) -> Attribution:
    leaves: list[tuple[Tensor, Tensor]] = []
    weight = model.weight(layer)

    def scaled(key: Tensor, value: Tensor) -> Tensor:
        scaled_key = (scales.to(key.dtype) * key[:, 0]).requires_grad_()
        leaves.append((key[0, 0], scaled_key))
        return value + times(scaled_key - key[:, 0], weight)[:, None]

    rows = hidden.expand(len(scales), -1, -1)
    with torch.enable_grad(), model.on_matrix(layer, scaled):
        final = segment.run(rows, range(layer, model.n_layer))[:, -1]
        probability = read_losses(model, final, lambda logits, _part: log_probability(logits, answer).exp())
        [(key, scaled_key)] = leaves
        [gradient] = torch.autograd.grad(probability.sum(), scaled_key)
    return Attribution((key * gradient.sum(0) / len(scales)).float(), key.detach().float())  # KN section 3.2
