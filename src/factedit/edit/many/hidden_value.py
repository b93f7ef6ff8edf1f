"""z: the hidden state that makes the model say the new object (MEMIT, arXiv 2210.07229, eq. 16).

As ROME's v* (`edit/value.py`, the same loss), but δ is added to what the block gives, h[l], and not to what its matrix
gives: z = h[l] + δ is what all edited layers together are to reach. Every context counts alike here, as in the
published program; the keys weigh them otherwise (`prompts.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from factedit.edit.objective import Losses, MakeRule, ValueSettings, optimise
from factedit.edit.value import batches_of, over_facts
from factedit.edit.value_rows import PromptRow, RowBatch, request_rows
from factedit.engine.half import at_least_float32
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel


@dataclass(frozen=True, eq=False)
class HiddenValue:
    """What the optimisation of one fact found, in float32 at least.

    Attributes:
        initial: h0, the block's output at the last subject token of the bare prompt, `[d_model]`.
        mlp: m0, the MLP's part of it, `[d_model]`.
        delta: δ, `[d_model]`.
        losses: one entry per evaluation of the loss.
    """

    initial: Tensor
    mlp: Tensor
    delta: Tensor
    losses: tuple[Losses, ...]

    @property
    def target(self) -> Tensor:
        """z `[d_model]`."""
        return self.initial + self.delta


class HiddenBatch(RowBatch):
    """Rows whose δ is added to the block's output: only the layers above are run at every step.

    Attributes:
        mlp: the MLP's contribution at the last subject tokens, without δ, `[rows, d_model]`.
        values: the block's output there.
    """

    @staticmethod
    def first_resumed(layer: int) -> int:
        """Return the layer above."""
        return layer + 1

    def enter(self, layers: range) -> None:
        """See `RowBatch.enter`; the last of the layers is the one at whose output δ is added."""
        seen: list[Tensor] = []
        with self.model.on_output("mlp", self.layer, lambda mlp: seen.append(mlp[:, 0].clone())):
            super().enter(layers)
        self.mlp = seen[0]

    def _note_first(self) -> None:
        self.values = self._hidden[:, 0]

    def _run(self, offsets: Tensor, layers: range) -> Tensor:
        return self._segment.run(self._hidden + self._at_first(offsets[self._facts]), layers)


def find_hidden_values(
    model: EditableModel,
    layer: int,
    requests: Sequence[EditRequest],
    contexts: Sequence[str],
    settings: ValueSettings,
    *,
    rule: MakeRule | None = None,
    tokens_at_once: int | None = None,
) -> list[HiddenValue]:
    """Optimise z for every request, all of them on the model as it is.

    Facts are optimised side by side, each with its own Adam, stop and clamp; no result depends on the others.

    Args:
        model: the model; unchanged.
        layer: at whose output z is meant: the last edited one.
        requests: the facts.
        contexts: templates with one `{}`, the bare `"{}"` first.
        settings: learning rate, steps, weights, clamp.
        rule: makes a further reason to stop, one for facts that are optimised together.
        tokens_at_once: see `find_values`.

    Raises:
        RequestError: a subject or target without tokens.
        EditError: the loss is not finite.
        ResourceError: a single fact does not fit in memory.
    """
    rows = [request_rows(model, fact, request, contexts, settings.stop) for fact, request in enumerate(requests)]
    work = lambda part: _find(model, layer, part, settings, rule)  # noqa: E731
    return over_facts(model, [layer + 1], rows, work, HiddenValue, settings, tokens_at_once=tokens_at_once)


def _find(
    model: EditableModel,
    layer: int,
    rows: Sequence[Sequence[PromptRow]],
    settings: ValueSettings,
    rule: MakeRule | None,
) -> list[HiddenValue]:
    """z of facts that are optimised together."""
    batches = batches_of(model, layer, rows, HiddenBatch)
    initial, mlp = (bare_rows(batches, len(rows), which) for which in ("values", "mlp"))
    delta, losses = optimise(batches, initial.norm(dim=1), settings, rule and rule())
    per_fact = zip(initial, mlp, delta, losses, strict=True)
    return [HiddenValue(first, part, offset, tuple(seen)) for first, part, offset, seen in per_fact]


def bare_rows(batches: Sequence[RowBatch], facts: int, which: str) -> Tensor:
    """Return what the batches keep of every fact's bare prompt, `[facts, …]`, in float32 at least.

    Args:
        batches: the rows of the facts, which are numbered from 0.
        facts: how many.
        which: the name of an attribute `[rows, …]` of the batches.
    """
    by_fact = {
        row.fact: getattr(batch, which)[n]
        for batch in batches
        for n, row in enumerate(batch.rows)
        if row.context == 0 and row.targets
    }
    stacked = torch.stack([by_fact[fact] for fact in range(facts)])
    return stacked.to(at_least_float32(stacked.dtype))
