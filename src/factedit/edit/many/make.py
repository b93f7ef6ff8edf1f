"""A method of hidden values made for a model: its layers, its contexts, what must stay at each layer, its values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from factedit.edit.key import check_contexts, sample_contexts
from factedit.edit.many.anchor_store import anchor_of
from factedit.edit.many.hidden_value import find_hidden_values
from factedit.edit.many.joint import JointMethod, Values
from factedit.edit.many.norms import with_norm
from factedit.edit.many.settings import HiddenSettings, JointSettings
from factedit.edit.many.solver import Solver
from factedit.edit.method import MomentSource
from factedit.edit.objective import MakeRule
from factedit.errors import UsageError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.stats.penalty import Penalty
from factedit.stats.preserved import Preserved, preserved_at


def make_joint(
    name: str,
    paper: str,
    model: EditableModel,
    moments: MomentSource,
    settings: HiddenSettings,
    *,
    penalty: Callable[[Preserved], Penalty] = Preserved.penalty,
    scale: float | None = None,
    exact: bool = False,
    contexts: Sequence[str] | None = None,
    rule: MakeRule | None = None,
) -> JointMethod:
    """Return a method that finds z for the last edited layer's output and writes it.

    Args:
        name, paper: of the method.
        model: the unedited model.
        moments: gives the second moment of a layer.
        settings: with the layers decided.
        penalty: of what must stay at a layer, at scale 1.
        scale: λ or L2; None sets it by `settings.share`, of which 1 writes every value exactly.
        exact: write every value exactly in any case.
        contexts: templates, each with one `{}`; None samples them.
        rule: makes a further reason to stop a fact's optimisation.

    Raises:
        UsageError: layers that the model does not have or that do not ascend; contexts that are no templates.
    """
    templates = make_contexts(model, settings, contexts)
    solvers = make_solvers(
        model, moments, settings, penalty, scale, exact=exact or (scale is None and settings.share == 1)
    )
    last = list(solvers)[-1]
    anchor = anchor_of(model, last, settings, rule) if settings.anchored else None
    find = HiddenValues(model, last, templates, settings, rule, anchor)
    return JointMethod(name, paper, model, settings, solvers, templates, find)


@dataclass(frozen=True, eq=False)
class HiddenValues:
    """z of facts, with the norm of the anchor where there is one.

    Attributes:
        model, layer, contexts, settings, rule: see `find_hidden_values`.
        anchor: see `norms.py`.
    """

    model: EditableModel
    layer: int
    contexts: Sequence[str]
    settings: HiddenSettings
    rule: MakeRule | None = None
    anchor: float | None = None

    def __call__(self, requests: Sequence[EditRequest]) -> Values:
        """Return the values of these facts on the model as it is."""
        values = find_hidden_values(self.model, self.layer, requests, self.contexts, self.settings, rule=self.rule)
        losses = [value.losses for value in values]
        if self.anchor is None:
            targets = torch.stack([value.target for value in values])
            return Values(targets, torch.stack([value.delta for value in values]), losses)
        targets, dropped = with_norm(values, self.anchor)
        deltas = targets - torch.stack([value.initial for value in values])
        return Values(targets, deltas, losses, notes={"anchor": self.anchor, "dropped": int(dropped.sum())})


def make_contexts(model: EditableModel, settings: JointSettings, given: Sequence[str] | None) -> tuple[str, ...]:
    """Return the templates that were given, the bare one first, or sampled ones."""
    if given is not None:
        return check_contexts(given)
    lengths = ((1, settings.context_length + 1),)  # the start token is counted too
    return sample_contexts(model, lengths, seed=settings.context_seed, openings=settings.context_openings)


def make_solvers(
    model: EditableModel,
    moments: MomentSource,
    settings: JointSettings,
    penalty: Callable[[Preserved], Penalty],
    scale: float | None,
    *,
    exact: bool,
) -> dict[int, Solver]:
    """Return a solver for each of the edited layers.

    Raises:
        UsageError: layers that the model does not have, or that do not ascend.
    """
    solvers = {}
    for layer in check_layers(model, settings.layers or ()):
        kept = preserved_at(model, layer, moments, subject_weight=settings.subject_weight, ridge=settings.ridge)
        of_batch = settings.share_of == "batch"
        solvers[layer] = Solver(kept, penalty(kept), scale, settings.share, exact, settings.history, of_batch)
    return solvers


def check_layers(model: EditableModel, layers: Sequence[int]) -> tuple[int, ...]:
    """Return the layers, if they are the model's and ascend.

    Raises:
        UsageError: saying what was found.
    """
    for layer in layers:
        model.check_layer(layer)
    if not layers or list(layers) != sorted(set(layers)):
        raise UsageError(f"The edited layers must ascend, each named once; found {list(layers)}.")
    return tuple(layers)
