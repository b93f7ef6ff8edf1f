"""Single facts out of joint edits, by the exact formulas of `revise.py`, as an edit of its own.

It holds where facts were written beside the history of the others. A method that writes exactly, cuts updates back or
forgets its history has no such formula: there the whole edit is taken off.

An edit of the same matrix that keeps no keys (of another method, or with history off) stands beside the history's W,
as D: S (W − D) = M W₀ + HᵀV, with what a fact's values owe to those D that were there before it taken off V. So a
fact's residual is read without the D that came after it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from factedit.edit.artefact import Edit, weights_of
from factedit.edit.effects.low_rank import LowRank, low_rank_at
from factedit.edit.many.history import History
from factedit.edit.many.revise import take_back
from factedit.edit.many.solver import LayerPast, Solver
from factedit.edit.standing import FactOn
from factedit.edit.state import WITHOUT, State, rows_gone
from factedit.errors import DataError, EditError
from factedit.models.adapter import EditableModel

logger = logging.getLogger(__name__)
ROWS = ("keys", "values")  # tensors of the state that have one row per fact


def take_facts_back(
    model: EditableModel, solvers: Mapping[int, Solver], edits: Sequence[Edit], gone: Sequence[FactOn], state: State
) -> Edit:
    """Return the edit that takes facts out of those that are on the model.

    Args:
        model: with all edits on it.
        solvers: of the method that made them, per layer.
        edits: that are on the model, in order.
        gone: facts of theirs.
        state: of the sequence.

    Raises:
        EditError: a method whose facts cannot be taken back one by one.
        DataError: a fact has no row in the state.
    """
    method = gone[0].edit.method
    if any(solver.exact or not solver.history for solver in solvers.values()):
        raise EditError(
            f"{method} was set to write its facts exactly, or to forget earlier ones: no single fact can be taken out "
            "of what it wrote. Take off the whole edit, or edit with a softer share and with history."
        )
    _tell_of_layers(list(solvers))
    rows = torch.tensor(rows_of(edits, gone))
    effects, change = list[LowRank](), dict[str, Tensor]()
    for layer, solver in solvers.items():
        past = LayerPast.of(model, layer, state)
        history = History.of(solver.penalty.without(past.left_out).scaled(past.scale or 1.0), past.keys)
        keys = past.keys[rows.to(model.device)]
        values = past.values[rows] + _put_beside(model, layer, keys, edits, gone).to(past.values)
        revision = take_back(history, rows.to(model.device), values, model.mlp(layer).product)
        effects += low_rank_at(model, layer, revision.directions.T.float().contiguous(), revision.residual.float())
        change |= rows_gone([f"{name}.{layer}" for name in ROWS], rows)
    return Edit(
        method=method,
        requests=(),
        effects=tuple(effects),
        made_for=model.fingerprint(),
        settings=gone[0].edit.settings,
        model_name=model.name,
        state_change=change,
        takes_back=tuple(fact.name for fact in gone),
    )


def _tell_of_layers(layers: Sequence[int]) -> None:
    """Say that upper layers are left as the keys of then would have them."""
    if len(layers) > 1:
        logger.warning(
            "The fact was written into layers %s: it is taken out of each by the key that it had there when it was "
            "written, which is exact in layer %d; in those above, keys have moved a little with every later edit.",
            ", ".join(map(str, layers)),
            layers[0],
        )


def _put_beside(
    model: EditableModel, layer: int, keys: Tensor, edits: Sequence[Edit], gone: Sequence[FactOn]
) -> Tensor:
    """Return what edits that keep no keys at a layer, put on after each fact, add at the facts' keys `[m, d_model]`."""
    at = {edit.identity: n for n, edit in enumerate(edits)}
    parts = model.mlp(layer).parts(keys.T)
    added = torch.zeros(len(keys), model.d_model, device=keys.device)
    for number, edit in enumerate(edits):
        if any(name.partition(".")[2] == f"{ROWS[0]}.{layer}" for name in edit.state_change):
            continue
        later = torch.tensor([number > at[fact.edit.identity] for fact in gone], device=keys.device)
        for effect in weights_of([edit]):
            if effect.place[0] == layer and effect.place[1] in parts:
                added += later[:, None] * (parts[effect.place[1]].T @ effect.delta().to(keys))
    return added


def rows_of(edits: Sequence[Edit], wanted: Sequence[FactOn]) -> list[int]:
    """Return the rows that facts have in the keys of their sequence, as after all the edits.

    Args:
        edits: all of the sequence, in order.
        wanted: facts of edits that keep keys.

    Raises:
        DataError: a fact has no row.
    """
    rows: list[tuple[str, int]] = []
    for edit in edits:
        kept = {name: tensor for name, tensor in edit.state_change.items() if name.split(".")[1] == ROWS[0]}
        gone = next(
            (set(tensor.tolist()) for name, tensor in kept.items() if name.startswith(f"{WITHOUT}.")), set[int]()
        )
        rows = [row for n, row in enumerate(rows) if n not in gone]
        if any(not name.startswith(f"{WITHOUT}.") for name in kept):
            rows += [(edit.identity, number) for number in range(len(edit.requests))]
    try:
        return [rows.index(fact.name) for fact in wanted]
    except ValueError:
        raise DataError(
            "A fact has no row in the state of its sequence: an edit is missing, or they are out of order."
        ) from None
