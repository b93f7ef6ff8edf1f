"""PMET's values (arXiv 2308.08742): one offset on the MLP's output and one on the attention's, optimised together.

Both are added at the last subject token of the last edited layer; only the MLP is written, so that what attention
already does for the target is not asked of it. Decay and clamp are each offset's own.

On GPT-2, GPT-J and most others the attention's contribution is what its last matrix gives, as published; where a norm
stands behind it (Gemma 2 and 3, OLMo 2), the offset is added behind the norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from factedit.edit.many.hidden_value import bare_rows
from factedit.edit.objective import Losses, MakeRule, ValueSettings, optimise
from factedit.edit.value import batches_of, over_facts
from factedit.edit.value_rows import PromptRow, RowBatch, request_rows
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel


@dataclass(frozen=True, eq=False)
class TwoValues:
    """What the optimisation of one fact found, in float32 at least.

    Attributes:
        initial, attn_initial: the outputs at the last subject token of the bare prompt, `[d_model]`.
        delta, attn_delta: the offsets, `[d_model]`.
        losses: one entry per evaluation of the loss.
    """

    initial: Tensor
    attn_initial: Tensor
    delta: Tensor
    attn_delta: Tensor
    losses: tuple[Losses, ...]

    @property
    def target(self) -> Tensor:
        """What the MLP's matrix is to give, `[d_model]`."""
        return self.initial + self.delta


class TwoBatch(RowBatch):
    """Rows with two offsets a fact: all of the MLP's, then all of the attention's.

    Attributes:
        attn: the attention's contribution at the last subject tokens, without δ, `[rows, d_model]`.
    """

    parts = 2

    def _note_first(self) -> None:
        seen: list[Tensor] = []
        with self.model.on_output("attn", self.layer, lambda attn: seen.append(attn[:, 0].clone())):
            super()._note_first()
        self.attn = seen[0]

    def _run(self, offsets: Tensor, layers: range) -> Tensor:
        mlp, attn = offsets.chunk(2)
        added = self._at_first(attn[self._facts])
        with self.model.on_output("attn", self.layer, lambda given: given + added):
            return super()._run(mlp, layers)


def find_two_values(
    model: EditableModel,
    layer: int,
    requests: Sequence[EditRequest],
    contexts: Sequence[str],
    settings: ValueSettings,
    *,
    rule: MakeRule | None = None,
    tokens_at_once: int | None = None,
) -> list[TwoValues]:
    """Optimise both offsets for every request; arguments and errors as in `find_hidden_values`."""
    rows = [request_rows(model, fact, request, contexts, settings.stop) for fact, request in enumerate(requests)]
    work = lambda part: _find(model, layer, part, settings, rule)  # noqa: E731
    return over_facts(model, [layer], rows, work, TwoValues, settings, tokens_at_once=tokens_at_once)


def _find(
    model: EditableModel,
    layer: int,
    rows: Sequence[Sequence[PromptRow]],
    settings: ValueSettings,
    rule: MakeRule | None,
) -> list[TwoValues]:
    batches = batches_of(model, layer, rows, TwoBatch)
    mlp, attn = (bare_rows(batches, len(rows), which) for which in ("values", "attn"))
    offsets, losses = optimise(batches, torch.cat([mlp, attn]).norm(dim=1), settings, rule and rule())
    delta, attn_delta = offsets.chunk(2)
    per_fact = zip(mlp, attn, delta, attn_delta, losses, strict=True)
    return [
        TwoValues(first, other, offset, attn_offset, tuple(seen))
        for first, other, offset, attn_offset, seen in per_fact
    ]
