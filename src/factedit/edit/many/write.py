"""A batch of facts written into several layers, one after the other (MEMIT, arXiv 2210.07229, §4.3).

For each layer, from the lowest to the highest: keys and hidden states are taken with the layers below as already
written, the residual is what is *still* missing, divided among the layers that remain; so the last one takes all of
it. The residual is measured once per layer, never once for all, and lives at the last layer, not at the one written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from factedit.edit.many.prompts import Prompts, Reading
from factedit.edit.many.value_space import into_value_space
from factedit.models.adapter import EditableModel


class LayerChange(NamedTuple):
    """ΔW = left · right.

    Attributes:
        left: `[d_mlp, rank]`.
        right: `[rank, d_model]`.
    """

    left: Tensor
    right: Tensor


Solve = Callable[[int, Tensor, Tensor], LayerChange]  # layer, keys [n, d_mlp], residual [n, d_model]


@dataclass(frozen=True, eq=False)
class WrittenLayer:
    """One layer's part of a batch.

    Attributes:
        layer: which.
        keys: the keys it was solved for, `[n, d_mlp]`.
        reached: what the bare prompts gave at the last layer before it was written, `[n, d_model]`.
        residual: of its matrix's output, `[n, d_model]`.
        values: what was meant to stand at the keys, K W + R, `[n, d_model]`.
        change: ΔW.
    """

    layer: int
    keys: Tensor = field(repr=False)
    reached: Tensor = field(repr=False)
    residual: Tensor = field(repr=False)
    values: Tensor = field(repr=False)
    change: LayerChange = field(repr=False)


def equal_parts(remaining: int) -> float:
    """Return a layer's part of what is missing, where so many remain: MEMIT's."""
    return 1 / remaining


def root_parts(remaining: int) -> float:
    """Return PMET's larger part (arXiv 2308.08742)."""
    return 1 / math.sqrt(remaining)


def write_layers(
    model: EditableModel,
    layers: Sequence[int],
    prompts: Prompts,
    targets: Tensor,
    solve: Solve,
    *,
    reading: Reading = "hidden",
    part: Callable[[int], float] = equal_parts,
) -> tuple[list[WrittenLayer], Tensor]:
    """Return the changes of all layers; the model has the same bits as before when it returns.

    Args:
        model: the model.
        layers: the edited ones, ascending.
        prompts: the facts' prompts, made for the first of them.
        targets: what the bare prompts are to give at the last layer, `[n, d_model]`.
        solve: gives a layer's change.
        reading: of what the targets are: of the block's output, or of the matrix's.
        part: a layer's part of what is missing.

    Returns:
        The layers' parts, and what is missing when all are written, `[n, d_model]`.

    Raises:
        EditError: a change that is not finite.
    """
    with ExitStack() as stack:
        written = list(_written(model, layers, prompts, targets, solve, reading, part, stack))
        return written, targets - prompts.reached(layers[-1], reading)


def _written(
    model: EditableModel,
    layers: Sequence[int],
    prompts: Prompts,
    targets: Tensor,
    solve: Solve,
    reading: Reading,
    part: Callable[[int], float],
    stack: ExitStack,
) -> Iterator[WrittenLayer]:
    for number, layer in enumerate(layers):
        seen = prompts.see(layer, layers[-1], reading)
        residual = (targets - seen.reached) * part(len(layers) - number)
        if reading == "hidden":
            residual = into_value_space(model, layer, seen.values, residual)
        change = solve(layer, seen.keys, residual)
        values = model.mlp(layer).product(seen.keys) + residual
        stack.enter_context(layer_written(model, layer, change))
        yield WrittenLayer(layer, seen.keys, seen.reached, residual, values, change)


@contextmanager
def layer_written(model: EditableModel, layer: int, change: LayerChange) -> Iterator[None]:
    """Yield the model with a layer's change in its last matrix, or in those of its experts; the same bits afterwards.

    Raises:
        EditError: a change that is not finite.
    """
    with ExitStack() as stack:
        for name, left in model.mlp(layer).parts(change.left).items():
            new = weight_after(model.weight(layer, name), LayerChange(left, change.right))
            stack.enter_context(model.with_weight(layer, new, name))
        yield


def weight_after(weight: Tensor, change: LayerChange) -> Tensor:
    """Return W + ΔW, the product taken in float64 and rounded once."""
    return (weight.double() + change.left.to(weight.device).double() @ change.right.to(weight.device).double()).to(
        torch.promote_types(weight.dtype, torch.float32)
    )
