"""Methods that find hidden values and write them into several layers (MEMIT, arXiv 2210.07229, and its descendants).

They differ in the values (`Values`), in what must stay (the solvers) and in what becomes of an update afterwards
(`keep`); the rest of them is here: z for all facts on the model as it is, then layer after layer, then one Edit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from factedit.edit.artefact import Edit, Notes
from factedit.edit.effects.dense import Dense
from factedit.edit.effects.low_rank import LowRank, low_rank_at
from factedit.edit.experts import experts_of
from factedit.edit.many.one_edit import begin_batch, one_edit, same_keys
from factedit.edit.many.prompts import Prompts, Reading
from factedit.edit.many.restrain import keep_largest
from factedit.edit.many.settings import JointSettings
from factedit.edit.many.solver import Solved, Solver, state_after, with_values
from factedit.edit.many.taking_back import take_facts_back
from factedit.edit.many.write import LayerChange, WrittenLayer, equal_parts, write_layers
from factedit.edit.method import Made
from factedit.edit.objective import Losses
from factedit.edit.standing import FactOn
from factedit.edit.state import State
from factedit.errors import EditError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel

TINY = 1e-30  # no norm is less where it divides


@dataclass(frozen=True, eq=False)
class Values:
    """What the facts' prompts are to give at the last edited layer.

    Attributes:
        targets: `[n, d_model]`.
        deltas: how far that is from what they give, `[n, d_model]`.
        losses: per fact, one entry per evaluation.
        reading: at that layer, the block's output (`hidden`) or its matrix's (`value`).
        notes: of the whole, as JSON values.
    """

    targets: Tensor
    deltas: Tensor
    losses: Sequence[Sequence[Losses]]
    reading: Reading = "hidden"
    notes: Mapping[str, Any] = field(default_factory=dict)


FindValues = Callable[[Sequence[EditRequest]], Values]


@dataclass(frozen=True, eq=False)
class JointMethod:
    """A method of hidden values, set up for one model.

    Attributes:
        name, paper: of the method.
        model: the model.
        settings: with the layers decided.
        solvers: per edited layer, from the lowest to the highest.
        contexts: templates, the bare one first.
        find: finds the values.
        part: a layer's part of what is missing.
    """

    name: str
    paper: str
    model: EditableModel
    settings: JointSettings
    solvers: Mapping[int, Solver]
    contexts: tuple[str, ...]
    find: FindValues
    part: Callable[[int], float] = equal_parts
    scope: Literal["joint"] = "joint"

    def edit(self, requests: Sequence[EditRequest], state: State | None = None) -> Made:
        """Return one edit of all requests, beside those before it.

        Raises:
            EditError: a loss or an update that is not finite; a history of another base.
            RequestError: a subject or target without tokens.
            ResourceError: a single fact does not fit in memory.
        """
        if not requests:
            return Made((), state)
        model, layers = self.model, list(self.solvers)
        base, pasts = begin_batch(
            model, {n: solver.preserved for n, solver in self.solvers.items()}, requests, state,
            history=self.settings.history, experts=self.settings.experts,
        )  # fmt: skip
        values = self.find(requests)
        prompts = Prompts(model, requests, types_of(self.contexts), layers[0], experts=self.settings.experts)
        subjects = [request.subject for request in requests]
        solved: dict[int, Solved] = {}

        def solve(layer: int, keys: Tensor, residual: Tensor) -> LayerChange:
            solved[layer] = self.solvers[layer].solve(keys, residual, subjects, pasts[layer])
            return solved[layer].change

        written, missing = write_layers(
            model, layers, prompts, values.targets, solve, reading=values.reading, part=self.part
        )
        after = {each.layer: with_values(solved[each.layer].past, each.values) for each in written}
        begun = (values.targets - written[0].reached).norm().clamp(min=TINY)
        edit = one_edit(
            self.name,
            model,
            requests,
            [effect for each in written for effect in self._effects(each)],
            notes=_notes(model, values, written, missing),
            settings=self.describe(),
            layers={layer: solution.notes for layer, solution in solved.items()},
            diagnostics={
                "missing": float(missing.norm() / begun),
                **same_keys(written[0].keys, pasts[layers[0]].keys),
                **values.notes,
            },
        )
        return Made((edit,), state_after(base, after) if self.settings.history else None)

    def _effects(self, written: WrittenLayer) -> Sequence[LowRank | Dense]:
        if self.settings.keep == 1:
            return low_rank_at(self.model, written.layer, written.change.left.float(), written.change.right.float())
        changes = []
        for name, left in self.model.mlp(written.layer).parts(written.change.left).items():
            delta = (left.double() @ written.change.right.double()).float()
            weight = self.model.weight(written.layer, name).float()
            changes.append(Dense(written.layer, keep_largest(delta, weight, self.settings.keep), name))
        return changes

    def take_back(self, edits: Sequence[Edit], gone: Sequence[FactOn], state: State) -> Edit:
        """See `TakesBack`.

        Raises:
            EditError: settings under which no single fact can be taken back.
        """
        if self.settings.keep < 1:
            raise EditError(
                f"{self.name} keeps {self.settings.keep:g} of the entries of an update, so no single fact can be taken "
                "out of it. Take off the whole edit."
            )
        return take_facts_back(self.model, self.solvers, edits, gone, state)

    def describe(self) -> dict[str, Any]:
        """Return everything that decides an edit beside the model, the requests and the state, as JSON values."""
        return {
            **self.settings.model_dump(mode="json"),
            "layers": list(self.solvers),
            "context_templates": list(self.contexts),
            "second_moments": {str(n): solver.preserved.moment.fingerprint for n, solver in self.solvers.items()},
        }


def types_of(contexts: Sequence[str]) -> list[list[str]]:
    """Return the contexts by type: the bare prompt counts a half of a key, however many texts there are."""
    return [["{}"], list(contexts[1:])] if len(contexts) > 1 else [["{}"]]


def told_of_values(values: Values, begun: Tensor, missing: Tensor) -> list[dict[str, Any]]:
    """Return what there is to say of each fact's value.

    Args:
        values: what was sought.
        begun: how far each fact was from it before, `[n]`.
        missing: of every fact's value when all is written, `[n, d_model]`.
    """
    numbers = zip(
        values.losses,
        values.targets.norm(dim=1),
        values.deltas.norm(dim=1),
        missing.norm(dim=1) / begun.clamp(min=TINY),
        strict=True,
    )
    return [
        {
            "losses": [list(terms) for terms in losses],
            "target_norm": float(target),
            "delta_norm": float(delta),
            "missing": float(rest),
        }
        for losses, target, delta, rest in numbers
    ]


def _notes(model: EditableModel, values: Values, written: Sequence[WrittenLayer], missing: Tensor) -> tuple[Notes, ...]:
    """Return what there is to say of each fact."""
    begun = (values.targets - written[0].reached).norm(dim=1)
    return tuple(
        Notes(
            diagnostics={
                **told,
                **experts_of(model, [(each.layer, each.keys[fact], each.change.left[:, fact]) for each in written]),
            }
        )
        for fact, told in enumerate(told_of_values(values, begun, missing))
    )
