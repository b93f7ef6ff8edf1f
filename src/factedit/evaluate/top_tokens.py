"""The likeliest next tokens after a prompt, each with its probability, under many edits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from factedit.engine.likeliest import Token, likeliest
from factedit.evaluate.asks import OwnEdits
from factedit.evaluate.distribution import NextToken
from factedit.models.adapter import EditableModel


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
        bare = [[NextToken(ask.prompt) for ask in asks] for asks in asked]
        by_variant = NextToken.read(model, bare, variants, seed=seed)
        return [
            [
                [likeliest(reply.model, reply.hidden, ask.most) for reply, ask in zip(row, asks, strict=True)]
                for row, asks in zip(rows, asked, strict=True)
            ]
            for rows in by_variant
        ]
