"""The methods whose edit a trained network gives: KE and MEND. What they share.

The network reads the factors of the gradient of −log P(target | prompt) at the matrices of the last blocks, and gives
ΔW of each as a product. Everything before the last blocks is run once, without gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from factedit.edit.artefact import Edit
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.factors import Factors, Products, gradient_factors, last_matrices
from factedit.edit.method import Made, MomentSource, Scope
from factedit.edit.presets_baselines import NoSettings, checked
from factedit.edit.state import State
from factedit.edit.target_rows import TargetBatch, TargetRow, target_row
from factedit.edit.trained import Network, TrainedRecord, load_network, text_hashes
from factedit.engine import budget
from factedit.engine.resume import read_out
from factedit.errors import EditError
from factedit.facts import EditRequest, FactRecord
from factedit.memory import in_halves
from factedit.models.adapter import EditableModel
from factedit.models.families import Place


@dataclass(frozen=True)
class Hypernetwork:
    """A method with its trained network.

    Attributes:
        name: `ke`, `mend-zsre`, …
        paper: where it is from.
        model: the model.
        record: the network's pedigree.
        network: the network.
        seen: hashes of the texts it was trained on.
    """

    name: str
    paper: str
    model: EditableModel
    record: TrainedRecord
    network: Network = field(repr=False)
    seen: Tensor = field(repr=False)
    scope: Scope = "each"

    def edit(self, requests: Sequence[EditRequest], state: State | None = None) -> Made:
        """Return one independent edit per request.

        Raises:
            EditError: a change that is not finite.
            RequestError: a target without tokens.
            ResourceError: a single fact does not fit in memory.
        """
        model = self.model
        rows = [target_row(model, request.text, request.target_new) for request in requests]
        places = last_matrices(model, self.record.blocks)
        changes: dict[int, list[LowRank]] = {}
        order = sorted(range(len(rows)), key=lambda n: len(rows[n].ids))
        work = lambda part: self._changes(places, [rows[n] for n in part])  # noqa: E731
        for begin in range(0, len(order), budget.FACTS_TRANSFORMED):
            part = order[begin : begin + budget.FACTS_TRANSFORMED]
            changes |= dict(zip(part, in_halves(part, work, what="facts"), strict=True))
        made_for = model.fingerprint()
        return Made(tuple(self._transformed(request, changes[n], made_for) for n, request in enumerate(requests)))

    @torch.no_grad()
    def _changes(self, places: Sequence[Place], rows: Sequence[TargetRow]) -> list[list[LowRank]]:
        batch = TargetBatch(self.model, places[0][0], rows)
        factors = gradient_factors(batch, places)
        products = transform(self.network, batch, factors)
        return [[_change(place, products, n) for place in places] for n in range(len(rows))]

    def _transformed(self, request: EditRequest, changes: Sequence[LowRank], made_for: str) -> Edit:
        size = float(sum(change.delta().norm() ** 2 for change in changes) ** 0.5)
        if not torch.isfinite(torch.tensor(size)):
            raise EditError(
                f"The change that {self.name} gives for {request.text!r} is not finite. The model is unchanged. "
                "Train the network again with a smaller learning rate."
            )
        weights = sum(self.model.weight(c.layer, c.matrix).float().norm() ** 2 for c in changes)
        return Edit(
            method=self.name,
            requests=(request,),
            effects=tuple(changes),
            made_for=made_for,
            settings=self.describe(),
            diagnostics={"update_norm": size, "weight_norm": float(weights**0.5)},
            model_name=self.model.name,
        )

    def describe(self) -> dict[str, Any]:
        """Return everything that decides an edit beside the model and the request, as JSON values."""
        kept = ("blocks", "network", "training", "data", "records", "records_sha256", "best_step", "files")
        return self.record.model_dump(mode="json", include=set(kept))

    def trained_on(self, records: Sequence[FactRecord]) -> list[str]:
        """Return the case ids among the records of which the network was trained on a wording."""
        seen = set(self.seen.tolist())
        return [r.case_id for r in records if seen & set(text_hashes(r.wordings).tolist())]


def transform(network: Network, batch: TargetBatch, factors: Factors) -> Products:
    """Return what the network makes of a gradient, for a batch of prompts and targets."""
    products: Products = network(factors, *embedded_sentences(batch)) if network.reads_sentence else network(factors)
    return products


@torch.no_grad()
def embedded_sentences(batch: TargetBatch) -> tuple[Tensor, Tensor]:
    """Return word embeddings `[rows, tokens, d_embed]` of "old >> new || prompt", and their mask; padded at the end."""
    model, tokenizer = batch.model, batch.model.tokenizer
    to, about = (tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (" >> ", " || "))
    firsts = [int((batch.owner == n).nonzero()[0]) for n in range(len(batch.rows))]
    old = read_out(model, batch.hidden()[firsts]).argmax(-1).tolist()
    told = [
        (answer, *to, *row.targets, *about, *row.ids[: row.reads[0] + 1])
        for answer, row in zip(old, batch.rows, strict=True)
    ]
    width = max(map(len, told))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in told], device=model.device)
    mask = torch.tensor([[n < len(row) for n in range(width)] for row in told], device=model.device)
    return model.lm.get_input_embeddings()(ids).float(), mask


def _change(place: Place, products: Products, row: int) -> LowRank:
    """Return the product of one row and matrix, without the terms that padding left at zero."""
    left, right = (part[row].detach() for part in products[place])
    live = (left != 0).any(0) & (right != 0).any(1)
    return LowRank(place[0], left[:, live].contiguous(), right[live].contiguous(), place[1])


def maker(name: str, paper: str) -> Callable[..., Hypernetwork]:
    """Return what makes the method of this name, as the table of methods asks for it."""

    def make(
        model: EditableModel, _moments: MomentSource, *, trained: str | Path | None = None, **changes: Any
    ) -> Hypernetwork:
        """Return the method with its trained network, in the folder `trained`, in one inside it, or in the cache.

        Raises:
            EditError: the network is another model's or another method's, or not trained to its end.
            UsageError: there is none, or a setting that the method does not have.
        """
        checked(NoSettings, name, {}, changes)
        return Hypernetwork(name, paper, model, *load_network(model, name, trained))

    return make
