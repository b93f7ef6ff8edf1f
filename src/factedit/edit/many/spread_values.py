"""Values of several layers, found together: an offset on each layer's matrix.

MEMIT (arXiv 2210.07229, §4.3) shares what is missing at its last layer out among the layers in fixed parts. Here the
optimisation finds the parts: each layer has a δ of its own at the last subject token, with its own decay and clamp, and
ROME's loss (arXiv 2202.05262, eq. 4) is minimised over all of them. What an insertion does elsewhere grows with the
square of its residual, so several short residuals do less than one long one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from factedit.edit.many.hidden_value import bare_rows
from factedit.edit.objective import Losses, ValueSettings, optimise
from factedit.edit.value import Value, batches_of, groups_of_facts, over_facts
from factedit.edit.value_rows import PromptRow, RowBatch, own_rows
from factedit.engine import budget
from factedit.engine.half import at_least_float32
from factedit.engine.resume import Past
from factedit.memory import in_halves
from factedit.models.adapter import EditableModel


@dataclass(frozen=True, eq=False)
class SpreadValue:
    """What the optimisation of one fact found, in float32 at least.

    Attributes:
        initial: what each layer's matrix gives in the bare prompt, `[layers, d_model]`.
        delta: the offsets, `[layers, d_model]`.
        losses: one entry per evaluation of the loss.
    """

    initial: Tensor
    delta: Tensor
    losses: tuple[Losses, ...]

    def at(self, number: int, key: Tensor, bare_key: Tensor) -> Value:
        """Return one of the layers' parts of it.

        Args:
            number: of the layer, from the lowest.
            key, bare_key: of the fact there; see `Value`.
        """
        return Value(key, bare_key, self.initial[number], self.delta[number], self.losses)


class SpreadBatch(RowBatch):
    """Rows with one offset a layer: all facts' of the lowest layer, then all of the next.

    Args:
        layers: where the offsets are added, ascending.
        model, layer, rows, past: see `RowBatch`; `layer` is the lowest of them.

    Attributes:
        initial: what each layer's matrix gives at the last subject tokens without δ, `[rows, layers, d_model]`.
    """

    def __init__(
        self, model: EditableModel, layer: int, rows: Sequence[PromptRow], past: Past | None, *, layers: Sequence[int]
    ) -> None:
        self._layers = tuple(layers)
        self.parts, self.reached = len(layers), layers[-1] - layer + 1
        super().__init__(model, layer, rows, past)

    def _note_first(self) -> None:
        with ExitStack() as stack:
            above = [stack.enter_context(self.model.mlp(n).noted((slice(None), 0))) for n in self._layers[1:]]
            super()._note_first()
        self.initial = torch.stack([self.values, *(seen[0][1] for seen in above)], 1)

    def _run(self, offsets: Tensor, layers: range) -> Tensor:
        lowest, *others = offsets.chunk(self.parts)
        with ExitStack() as stack:
            for layer, layer_offsets in zip(self._layers[1:], others, strict=True):
                stack.enter_context(self.model.mlp(layer).valued(partial(torch.add, self._per_row(layer_offsets))))
            return super()._run(lowest, layers)


def find_spread_values(
    model: EditableModel,
    layers: Sequence[int],
    rows: Sequence[Sequence[PromptRow]],
    settings: ValueSettings,
) -> list[SpreadValue]:
    """Optimise the offsets of all layers for every fact.

    Args:
        model: the model; unchanged.
        layers: whose matrices, ascending.
        rows: per fact its rows (`value.prompt_rows_of`).
        settings: learning rate, steps, weights, clamp; a layer's δ is clamped by what its own matrix gives.

    Raises:
        EditError: the loss is not finite.
        ResourceError: a single fact does not fit in memory.
    """
    work = lambda part: _find(model, layers, part, settings)  # noqa: E731
    return over_facts(model, layers, rows, work, SpreadValue, settings)


def _find(
    model: EditableModel, layers: Sequence[int], rows: Sequence[Sequence[PromptRow]], settings: ValueSettings
) -> list[SpreadValue]:
    batches = batches_of(model, layers[0], rows, partial(SpreadBatch, layers=layers))
    initial = bare_rows(batches, len(rows), "initial")
    offsets, losses = optimise(batches, initial.transpose(0, 1).flatten(0, 1).norm(dim=1), settings)
    deltas = offsets.unflatten(0, (len(layers), len(rows)))
    return [SpreadValue(initial[fact], deltas[:, fact], tuple(seen)) for fact, seen in enumerate(losses)]


@torch.no_grad()
def keys_at(model: EditableModel, layer: int, rows: Sequence[Sequence[PromptRow]]) -> list[tuple[Tensor, Tensor]]:
    """Return every fact's k*, the mean over its contexts, and its bare prompt's key, `[d_mlp]` each, on the model as
    it is.

    Args:
        model: with the layers below as written.
        layer: whose keys.
        rows: per fact its rows.

    Raises:
        ResourceError: a single fact does not fit in memory.
    """
    by_fact: dict[int, tuple[Tensor, Tensor]] = {}
    for part in groups_of_facts(rows, budget.tokens_optimised(model, layer), budget.share_of_past(model, layer)):
        keys = in_halves(part, lambda facts: _keys(model, layer, [rows[fact] for fact in facts]), what="facts")
        by_fact |= dict(zip(part, keys, strict=True))
    return [by_fact[fact] for fact in range(len(rows))]


def _keys(model: EditableModel, layer: int, rows: Sequence[Sequence[PromptRow]]) -> list[tuple[Tensor, Tensor]]:
    batches, wide = batches_of(model, layer, rows, RowBatch, layers=layer + 1), at_least_float32(model.dtype)
    keys = [own_rows(batches, fact)[0].to(wide) for fact in range(len(rows))]
    return [(fact_keys.mean(0), fact_keys[0]) for fact_keys in keys]  # ROME eq. 3
