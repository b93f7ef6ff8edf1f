"""Prove on a loaded model that it can be resumed: at a layer and a token, the numbers are those of the whole pass."""

from __future__ import annotations

import torch

from factedit.engine.resume import Segment, align, embed, read_out
from factedit.errors import UnsupportedModel
from factedit.models.adapter import EditableModel
from factedit.models.statement import RELATIVE_TOLERANCE

TOKENS, SPLIT = 6, 3


@torch.no_grad()
def prove_resumed(model: EditableModel) -> float:
    """Resume a few tokens at every layer, after a past, beside a shorter row; return the largest relative difference.

    The oracle is the model's own forward pass over each row alone.

    Raises:
        UnsupportedModel: it is not within rounding, or the model cannot be resumed at all.
    """
    ids = [(2 + n) % model.vocab for n in range(TOKENS)]
    rows, splits = [ids, ids[2:]], [SPLIT, SPLIT - 2]
    batch = align(rows, splits, device=model.device)
    try:
        states, segment = [], Segment(model, batch.mask, embeddings=embed(model, batch.ids))
        hidden = segment.start
        for layer in range(model.n_layer):
            states.append(hidden)
            hidden = segment.run(hidden, range(layer, layer + 1), keep=True)
        past, differences = segment.past().until(batch.split), list[float]()
        whole = [model.lm(input_ids=torch.tensor([row], device=model.device)).logits[0] for row in rows]
        for layer, state in enumerate(states):
            again = Segment(model, batch.mask, past=past)
            final = again.run(state[:, batch.split :], range(layer, model.n_layer))
            for n, (row, split) in enumerate(zip(rows, splits, strict=True)):
                expected = whole[n][split:]
                logits = read_out(model, final[n, : len(row) - split])
                differences.append(float((logits - expected).norm() / expected.norm().clamp(min=1e-30)))
    except Exception as error:  # the model's own code, asked for something that it may not know
        raise UnsupportedModel(
            f"{model.name} ({model.family.name}) cannot be resumed: {type(error).__name__}: "
            f"{(str(error).splitlines() or [''])[0][:200]}. What its layers go on from is not kept in keys and values."
        ) from error
    off = float(torch.tensor(differences).max())  # of which a NaN is the largest
    if not off <= 10 * RELATIVE_TOLERANCE[model.dtype]:
        raise UnsupportedModel(
            f"{model.name} ({model.family.name}) cannot be resumed: 'resumed at a layer and a token, the logits are "
            f"those of the whole pass' is off by {off:.1e} of their size. What its layers go on from is not kept."
        )
    return off
