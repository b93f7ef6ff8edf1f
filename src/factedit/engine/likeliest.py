"""The likeliest next tokens that a final hidden state gives."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from factedit.engine.resume import read_out
from factedit.engine.vocabulary import normaliser
from factedit.models.adapter import EditableModel
from factedit.models.positions import strings


class Token(NamedTuple):
    """A next token.

    Attributes:
        text: as the vocabulary writes it, its space included.
        probability: of it.
    """

    text: str
    probability: float


@torch.no_grad()
def likeliest(model: EditableModel, hidden: Tensor, count: int) -> tuple[Token, ...]:
    """Return the next tokens that the model's output side ranks first, the likeliest first.

    Args:
        model: whose norm, head and capping read the state.
        hidden: `[d_model]`.
        count: how many at most.
    """
    logits = read_out(model, hidden[None])
    best = logits[0].topk(min(count, logits.shape[1]))
    shares = normaliser(logits).rows(0).log_p(best.values).exp().tolist()
    return tuple(map(Token, strings(model, best.indices.tolist()), shares))
