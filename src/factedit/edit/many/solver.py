"""A layer's changes through a sequence: what must stay, how much it counts, and what was written before.

Nothing is global. What a batch leaves for the next one is handed on as tensors (`LayerPast.tensors`, kept in a
`State`): keys and values of every fact, the weight that the first batch chose, and whose names were left out of C.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from factedit.edit.many.history import History, share_reached, write_exactly
from factedit.edit.many.write import LayerChange
from factedit.edit.state import State
from factedit.errors import EditError
from factedit.models.adapter import EditableModel
from factedit.stats.penalty import Penalty, scale_of_batch, wanted_scale
from factedit.stats.preserved import Preserved

CROWDED = 1e6  # a condition number from which on it is said that keys are nearly dependent
logger = logging.getLogger("factedit")


@dataclass(frozen=True, eq=False)
class LayerPast:
    """What earlier batches left at one layer.

    Attributes:
        keys: of all facts so far, `[N, d_mlp]`, in the order of writing.
        values: what was written at them, `[N, d_model]`.
        left_out: what of C is not kept: the edited subjects' own names, `[m, d_mlp]`.
        names: whose each of these is (`name_number`), `[m]`: a name is in C once, however many facts its subject has.
        scale: λ or L2, as the first batch chose it; None before it.
        batches: how many facts came together, in order: a history that is read back is built in the same steps, to the
            same bits. One step of all where that is not known any more, after a fact was taken back.
    """

    keys: Tensor
    values: Tensor
    left_out: Tensor
    scale: float | None = None
    batches: tuple[int, ...] = ()
    names: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    @classmethod
    def of(cls, model: EditableModel, layer: int, state: State | None) -> LayerPast:
        """Return the past of a layer, empty where there is none.

        Raises:
            EditError: the state is not one of this layer.
        """
        d_mlp, d_model = model.mlp(layer).width, model.d_model
        if state is None or not state.tensors:
            nothing = torch.zeros(0, d_mlp, device=model.device)
            return cls(nothing, torch.zeros(0, d_model, device=model.device), nothing)
        stored = [state.tensors.get(f"{name}.{layer}") for name in ("keys", "values", "left_out", "scale")]
        keys, values, left_out, scale = stored
        widths = [None if t is None or t.ndim != 2 else t.shape[1] for t in (keys, values, left_out)]
        if keys is None or values is None or left_out is None or scale is None or widths != [d_mlp, d_model, d_mlp]:
            raise EditError(
                f"The state of the sequence has no history of layer {layer} (keys of width {d_mlp}, values of width "
                f"{d_model}); it holds {sorted(state.tensors)}. It was left by another method or another model."
            )
        where, counts = model.device, state.tensors.get(f"batches.{layer}")
        batches = () if counts is None else tuple(int(count) for count in counts.flatten())
        if sum(batches) != len(keys) or any(count < 1 for count in batches):
            batches = (len(keys),) if len(keys) else ()
        names = state.tensors.get(f"names.{layer}")
        if names is None or names.shape != left_out.shape[:1]:
            names = torch.full((len(left_out),), -1)  # of a sequence that did not note them
        return cls(keys.to(where), values.to(where), left_out.to(where), float(scale), batches, names.cpu())

    def plus(self, keys: Tensor) -> LayerPast:
        """Return the past with a batch of keys `[n, d_mlp]`; its values come later (`with_values`)."""
        return replace(self, keys=torch.cat([self.keys, keys.to(self.keys)]), batches=(*self.batches, len(keys)))

    def leaving_out(self, preserved: Preserved, subjects: Sequence[str]) -> LayerPast:
        """Return the past without these subjects' own names in C, either, each taken out once in all the sequence."""
        parts = preserved.parts_of_names(subjects, frozenset(self.names.tolist()))
        if not parts:
            return self
        numbers, vectors = zip(*parts, strict=True)
        left_out = torch.cat([self.left_out, torch.stack(vectors).to(self.left_out)])
        return replace(self, left_out=left_out, names=torch.cat([self.names, torch.tensor(numbers)]))

    def tensors(self, layer: int) -> dict[str, Tensor]:
        """Return what the state holds of it, float32 (`scale`: float64, `batches` and `names`: int64)."""
        scale = torch.tensor([self.scale or 0.0], dtype=torch.float64)
        held = {"keys": self.keys.float(), "values": self.values.float(), "left_out": self.left_out.float()}
        counts = torch.tensor(self.batches, dtype=torch.int64)
        told = {"scale": scale, "batches": counts, "names": self.names}
        return {f"{name}.{layer}": tensor for name, tensor in {**held, **told}.items()}


class Solved(NamedTuple):
    """A layer's change, the past with it, and what there is to say.

    Attributes:
        change: ΔW.
        past: for the next batch.
        notes: diagnostics, as JSON values.
    """

    change: LayerChange
    past: LayerPast
    notes: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Solver:
    """How a layer's changes are solved for.

    Args:
        preserved: C of the layer.
        penalty: M at scale 1.
        scale: λ or L2; None sets it by `share` at the first batch.
        share: of its residual that a fact of mean strength reaches alone.
        of_batch: the share is what the whole first batch reaches, its facts beside each other.
        exact: write every value exactly; the scale then weighs C against the history.
        history: whether the keys of earlier batches are kept beside M.
    """

    preserved: Preserved
    penalty: Penalty
    scale: float | None = None
    share: float = 0.5
    exact: bool = False
    history: bool = True
    of_batch: bool = False
    _known: list[History] = field(default_factory=list)

    def solve(self, keys: Tensor, residual: Tensor, subjects: Sequence[str], past: LayerPast) -> Solved:
        """Return the change of a batch.

        Args:
            keys: `[n, d_mlp]`.
            residual: of the matrix's output, `[n, d_model]`.
            subjects: whose keys they are.
            past: of the layer; its values are joined by the caller (`with_values`).

        Raises:
            EditError: keys that depend on each other where they are written exactly; a matrix without solution.
        """
        earlier, past = past, past.leaving_out(self.preserved, subjects)
        penalty = self.penalty.without(past.left_out)
        base = penalty.solve(keys)
        strength = (keys.double() * base).sum(1)
        scale = past.scale or self.scale or self._wanted(keys, base, strength, residual)
        before = self._history(penalty.scaled(scale), past, same=past is earlier)
        if self.exact:
            solve = write_exactly(keys, before.solve(keys) if len(before.keys) else base / scale)
            after = None
        else:
            solve, after = before.write(keys, base / scale)
        self._known[:] = [] if after is None or not self.history else [after]
        self._tell_if_crowded(len(past.keys) + len(keys), solve.condition)
        directions = solve.directions.to(residual)
        notes = {
            "scale": scale,
            "strength": float(strength.mean()),
            "share_reached": share_reached(solve, residual),
            "condition": solve.condition,
            "history": len(before.keys),
        }
        past = replace(past.plus(keys), scale=scale)
        return Solved(LayerChange(directions.T.contiguous(), residual), past, notes)

    def _tell_if_crowded(self, facts: int, condition: float) -> None:
        """Warn where the keys of a layer are more than can be told apart, or nearly so."""
        width = self.penalty.size
        if facts > width or not condition < CROWDED:
            logger.warning(
                "Layer %d is to hold %d facts by keys in %d dimensions (condition number %.1e): more than it can tell "
                "apart, so that values give way to each other. Edit fewer facts, or spread them over more layers.",
                self.preserved.layer, facts, width, condition,
            )  # fmt: skip

    def _wanted(self, keys: Tensor, base: Tensor, strength: Tensor, residual: Tensor) -> float:
        """Return the scale at which the share is reached."""
        if self.exact:
            return 1.0
        if self.of_batch:
            return scale_of_batch(keys.double() @ base.T, residual, self.share)
        return wanted_scale(strength, self.share)

    def _history(self, penalty: Penalty, past: LayerPast, *, same: bool) -> History:
        """Return the history of the past's keys; that of the last batch where C is the `same` and nothing changed."""
        if not self.history:
            return History.of(penalty, past.keys[:0])
        known = next(iter(self._known), None)
        same = (
            same
            and known is not None
            and known.penalty.scale == penalty.scale
            and torch.equal(known.keys.float(), past.keys.float())
        )
        return known if known is not None and same else History.of(penalty, past.keys, past.batches)


def with_values(past: LayerPast, values: Tensor) -> LayerPast:
    """Return the past with what was written at the last batch's keys."""
    return replace(past, values=torch.cat([past.values, values.to(past.values)]))


def state_after(base: str, pasts: Mapping[int, LayerPast]) -> State:
    """Return the state of all layers."""
    return State(base, {name: tensor for layer, past in pasts.items() for name, tensor in past.tensors(layer).items()})
