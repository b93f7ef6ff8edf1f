"""What an edit at a layer must leave alone: what running text reads there, other subjects, earlier facts.

C = E[k kᵀ] over running text (ROME, arXiv 2202.05262, section 3.1) weighs every token alike, but facts are read at the
last token of subjects; where it is asked for, C is joined by the second moment over subjects' names (`subjects.py`).
All solutions are in float64. A joint change is held back by a penalty (`penalty.py`): C's, or one that confines it to
C's null space; the keys of facts that were edited before join it (`edit/many/history.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from factedit.errors import DataError
from factedit.models.adapter import EditableModel
from factedit.stats.experts_moment import ExpertsMoment
from factedit.stats.penalty import MomentPenalty, NullSpacePenalty, null_space
from factedit.stats.store import Moment
from factedit.stats.subjects import name_number, plain_name, subject_keys, subject_moment, subject_names


@dataclass(frozen=True)
class Preserved:
    """What must stay at one layer of one model.

    Attributes:
        model: the model that C is of; asked for the keys of subjects that are left out, as it was when this was made.
        layer: whose keys.
        moment: C with its ridge, joined by that over the names.
        subject_weight: of the names' second moment in C; 0 leaves them out.
        changes: how many of the changes that may be on the model it had when this was made (`EditableModel.changes`).
    """

    model: EditableModel
    layer: int
    moment: Moment
    subject_weight: float = 0.0
    changes: int = 0

    def solve(self, keys: Tensor, *, subjects: Sequence[str] = ()) -> Tensor:
        """Return C⁻¹k of each key, `[n, d_mlp]`.

        Args:
            keys: `[n, d_mlp]`.
            subjects: whose keys they are; one that is among the names in C is left out of it for its own key.
        """
        own_parts = self.own_names(subjects)
        if not own_parts:
            return self.moment.solve(keys)
        left_out = torch.zeros_like(keys)
        left_out[list(own_parts)] = torch.stack(list(own_parts.values())).to(keys)
        return self.moment.solve_without(keys, left_out)

    def penalty(self) -> MomentPenalty:
        """Return C as what a joint change must keep small."""
        return MomentPenalty(self.moment)

    def null_space(self, *, threshold: float | None = None, energy: float | None = None) -> NullSpacePenalty:
        """Return the null space of C as where a joint change may lie; see `penalty.null_space`.

        Raises:
            UsageError: both or neither are given, or a share outside (0, 1).
            EditError: no eigenvalue, or every one, counts as zero.
        """
        return NullSpacePenalty(null_space(self.moment.matrix, threshold=threshold, energy=energy))

    def own_names(self, subjects: Sequence[str]) -> dict[int, Tensor]:
        """Return of the subjects that are among the names in C, by their place: a `[d_mlp]`, C being a sum with a aᵀ in
        it.
        """
        names = subject_names() if self.subject_weight else {}
        names_in_c = {n: names[plain] for n, subject in enumerate(subjects) if (plain := plain_name(subject)) in names}
        if not names_in_c:
            return {}
        share = (self.subject_weight / len(names)) ** 0.5
        with self.model.with_first_changes(self.changes):  # C holds the keys as they were, not those under later edits
            keys = subject_keys(self.model, self.layer, [("{}", name) for name in names_in_c.values()])
        return dict(zip(names_in_c, share * keys, strict=True))

    def parts_of_names(self, subjects: Sequence[str], known: Collection[int] = ()) -> list[tuple[int, Tensor]]:
        """Return what of C is these subjects' own names, each once: vectors a `[d_mlp]` with the number of their name
        (`name_number`), C being a sum with every a aᵀ in it.

        Of a layer's experts one for each expert, since C holds nothing between two.

        Args:
            subjects: whose names; two facts of one subject have one.
            known: numbers of names whose parts are known already.
        """
        by_number = {name_number(subject): subject for subject in subjects}
        wanted = {number: subject for number, subject in by_number.items() if number not in known}
        numbers, mixture = list(wanted), self.model.mixture(self.layer)
        of_names = self.own_names(list(wanted.values()))
        if mixture is None:
            return [(numbers[place], part) for place, part in of_names.items()]
        parts_of_experts = []
        for place, joined in of_names.items():
            for name, part in mixture.parts(joined).items():
                alone = torch.zeros_like(joined)
                alone[mixture.slices[name]] = part
                parts_of_experts.append((numbers[place], alone))
        return parts_of_experts


def preserved_at(
    model: EditableModel,
    layer: int,
    moments: Callable[[EditableModel, int], Moment],
    *,
    subject_weight: float = 0.0,
    ridge: float = 0.0,
) -> Preserved:
    """Return what must stay at a layer.

    Args:
        model: the unedited model.
        layer: whose keys.
        moments: gives C of a layer.
        subject_weight: times the second moment over subjects' names is added to C; 0 leaves them out.
        ridge: added to the diagonal, as a share of the mean eigenvalue.

    Raises:
        DataError: no second moment, or none for these weights and this layer.
    """
    moment = moments(model, layer).checked()
    _check_is_for(moment, model, layer)
    if subject_weight:
        moment = moment.plus(subject_moment(model, layer), subject_weight)  # type: ignore[arg-type]  # of one kind
    return Preserved(model, layer, moment.with_ridge(ridge), subject_weight, len(model.changes))


def _check_is_for(moment: Moment, model: EditableModel, layer: int) -> None:
    """Refuse a C of other keys, whoever gave it."""
    width = model.mlp(layer).width
    if isinstance(moment, ExpertsMoment) != (model.mixture(layer) is not None):
        there = "experts" if model.mixture(layer) else "one MLP"
        given = "of experts" if isinstance(moment, ExpertsMoment) else "of one matrix"
        raise DataError(
            f"Layer {layer} of {model.name} has {there}, and the second moment that was given is {given}. Compute it "
            "for this model with 'factedit stats'."
        )
    if moment.size != width:
        raise DataError(
            f"The second moment of layer {layer} is {[moment.size] * 2}; the keys of {model.name} need {[width] * 2}."
        )
    if moment.layer not in (None, layer):
        raise DataError(f"A second moment of layer {moment.layer} was given for layer {layer}.")
    if moment.model and moment.model != model.fingerprint():
        raise DataError(
            f"The second moment of layer {layer} was made for weights {moment.model[:12]}…; {model.name} has "
            f"{model.fingerprint()[:12]}…. Compute it for this model with 'factedit stats'."
        )
