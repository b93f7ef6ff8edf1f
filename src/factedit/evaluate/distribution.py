"""What the model thinks comes next, over the whole vocabulary, under many edits: to be compared, not kept.

A vocabulary of 262 144 words in logarithms is a megabyte; a hundred records with twenty prompts each under two models
would be four gigabytes. What is kept of a prompt is the last hidden state, of which norm and output matrix, which no
edit changes, make the distribution again; a few at a time are held while two models are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from factedit.engine import budget
from factedit.engine.resume import read_out
from factedit.evaluate.asks import OwnEdits
from factedit.evaluate.probability import by_prompts, final_states
from factedit.evaluate.texts import per_record
from factedit.models.adapter import EditableModel
from factedit.models.positions import tokenize_all


@dataclass(frozen=True, eq=False)
class Distribution:
    """The distribution of the token after a prompt.

    Attributes:
        model: the model, whose norm and output matrix no edit changes.
        hidden: what its last layer gives at the prompt's last token `[d_model]`, edited or not.
    """

    model: EditableModel = field(repr=False)
    hidden: Tensor = field(repr=False)


class NextToken(NamedTuple):
    """A prompt; the reply is the `Distribution` of the token after it."""

    prompt: str

    @classmethod
    @torch.no_grad()
    def read(
        cls,
        model: EditableModel,
        asked: Sequence[Sequence[NextToken]],
        variants: Sequence[OwnEdits],
        *,
        seed: int,  # noqa: ARG003
    ) -> list[list[list[Distribution]]]:
        """Return replies `[variant][record][ask]`; nothing is drawn, so the seed does not matter."""
        replies: list[list[list[Distribution]]] = [[] for _ in variants]
        owner = [n for n, asks in enumerate(asked) for _ in asks]
        for texts, alike in by_prompts(model, asked, variants):
            rows = [text.ids for text in tokenize_all(model, [ask.prompt for of_case in texts for ask in of_case])]
            hidden: list[list[Tensor]] = [[torch.empty(0)] * len(rows) for _ in alike]
            for part, finals in final_states(model, rows, owner, [variants[v] for v in alike]):
                at, last = range(len(part)), [len(rows[i]) - 1 for i in part]
                for kept, final in zip(hidden, finals, strict=True):
                    for i, state in zip(part, final[at, last], strict=True):
                        kept[i] = state
            for variant, kept in zip(alike, hidden, strict=True):
                replies[variant] = per_record(asked, [Distribution(model, state) for state in kept])
        return replies


@torch.no_grad()
def divergences(now: Sequence[Distribution], before: Sequence[Distribution]) -> list[float]:
    """Return KL(now ‖ before) of each pair, in nats; not finite where one of the two is not.

    Args:
        now: of edited models.
        before: of the unedited model at the same prompts.
    """
    values: list[float] = []
    count = max(1, budget.reads_scored(now[0].model) // 4) if now else 1  # two of them, in float64
    for begin in range(0, len(now), count):
        part = slice(begin, begin + count)
        after, was = (_log_p(rows[part]) for rows in (now, before))
        # where the probability is 0 in floating point the term is 0, whatever the other logarithm
        terms = torch.where(after.exp() == 0, 0.0, after.exp() * (after - was))
        values += terms.sum(-1).clamp(min=0).tolist()
    return values


def _log_p(rows: Sequence[Distribution]) -> Tensor:
    """Return log probabilities `[rows, vocab]`, float64."""
    return read_out(rows[0].model, torch.stack([row.hidden for row in rows])).double().log_softmax(-1)
