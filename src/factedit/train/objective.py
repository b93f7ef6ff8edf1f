"""What a hypernetwork is trained for (MEND, arXiv 2110.11309, §3.2): the edit is taken up, other texts stay.

L = c_edit · (−log P̃(target | another wording)) + c_loc · KL(P ‖ P̃) on an unrelated text, P̃ being the edited model.
The layers before the edited blocks are run once per step and without gradients; each row of a batch sees its own edit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from factedit.edit.factors import gradient_factors, products_added
from factedit.edit.hypernetwork import transform
from factedit.edit.target_rows import Loss, TargetBatch, read_losses
from factedit.edit.trained import Network
from factedit.engine.resume import read_out
from factedit.engine.vocabulary import divergence
from factedit.models.adapter import EditableModel
from factedit.models.families import Place
from factedit.train.examples import Example


@dataclass(frozen=True)
class TrainingLosses:
    """Means over a batch, in nats; the total carries gradients to the network.

    Attributes:
        total: L.
        edit: −log P̃ of the targets after the other wordings.
        drift: KL(P ‖ P̃) on the texts that must stay.
    """

    total: Tensor
    edit: float
    drift: float


def losses(
    model: EditableModel,
    network: Network,
    places: Sequence[Place],
    examples: Sequence[Example],
    *,
    c_edit: float,
    c_loc: float,
) -> TrainingLosses:
    """Return L of a batch of examples.

    Args:
        model: the model; unchanged.
        network: gives the edits.
        places: the matrices it edits, in order.
        examples: the batch.
        c_edit, c_loc: weights of the two terms.
    """
    first = places[0][0]
    edit, asked, stays = (
        TargetBatch(model, first, [getattr(example, part) for example in examples])
        for part in ("edit", "asked", "stays")
    )
    products = transform(network, edit, gradient_factors(edit, places))
    with torch.no_grad():
        before = stays.hidden()
    with model.frozen(), products_added(model, products):
        taken_up = asked.losses().mean()  # MEND eq. 4a: −log P̃ after another wording
        # MEND eq. 4b: KL(P ‖ P̃), P before the edit
        drift = stays.row_means(read_losses(model, stays.hidden(), divergence_from(model, before))).mean()
    return TrainingLosses(c_edit * taken_up + c_loc * drift, float(taken_up.detach()), float(drift.detach()))


def divergence_from(model: EditableModel, before: Tensor) -> Loss:
    """Return KL(P ‖ P̃) per read, P read off the unedited final hidden states `[reads, d_model]`."""

    def loss(logits: Tensor, part: slice) -> Tensor:
        with torch.no_grad():
            was = read_out(model, before[part])
        return divergence(was, logits)

    return loss
