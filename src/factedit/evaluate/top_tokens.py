"""The likeliest next tokens after a prompt, each with its probability, under many edits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from factedit.engine.resume import read_out
from factedit.engine.vocabulary import normaliser
from factedit.evaluate.asks import OwnEdits
from factedit.evaluate.distribution import Distribution, NextToken
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


class TopTokens(NamedTuple):
    """A prompt; the reply is a tuple of its likeliest next `Token`s, the likeliest first.

    Attributes:
        prompt: the text.
        most: how many.
    """

    prompt: str
    most: int = 10

    @classmethod
    def read(
        cls, model: EditableModel, asked: Sequence[Sequence[TopTokens]], variants: Sequence[OwnEdits], *, seed: int
    ) -> list[list[list[tuple[Token, ...]]]]:
        """Return replies `[variant][record][ask]`; nothing is drawn, so the seed does not matter."""
        bare = [[NextToken(ask.prompt) for ask in own] for own in asked]
        found = NextToken.read(model, bare, variants, seed=seed)
        return [
            [
                [_best(reply, ask.most) for reply, ask in zip(row, own, strict=True)]
                for row, own in zip(rows, asked, strict=True)
            ]
            for rows in found
        ]


@torch.no_grad()
def _best(reply: Distribution, count: int) -> tuple[Token, ...]:
    logits = read_out(reply.model, reply.hidden[None])
    best = logits[0].topk(min(count, logits.shape[1]))
    shares = normaliser(logits).rows(0).log_p(best.values).exp().tolist()
    return tuple(map(Token, strings(reply.model, best.indices.tolist()), shares))
