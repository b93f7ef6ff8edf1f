"""A joint method: one edit of all requests, over two layers, a random rank-one term per request and layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from factedit.edit.artefact import Edit, Notes
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.method import Made
from factedit.edit.state import State
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel


@dataclass(frozen=True)
class TwoLayers:
    model: EditableModel
    size: float = 0.3
    name: str = "two-layers"
    paper: str = "none"
    scope: str = "joint"

    def edit(self, requests: Sequence[EditRequest], state: State | None = None) -> Made:
        random, count = torch.Generator().manual_seed(1), len(requests)
        effects = tuple(
            LowRank(
                layer,
                self.size * torch.randn(self.model.d_mlp, count, generator=random),
                torch.randn(count, self.model.d_model, generator=random),
            )
            for layer in (1, 2)
        )
        notes = tuple(Notes(diagnostics={"place": n}) for n in range(count))
        return Made((Edit(method=self.name, requests=tuple(requests), effects=effects, notes=notes,
                          made_for=self.model.fingerprint(), model_name=self.model.name),))  # fmt: skip

    def describe(self) -> dict[str, Any]:
        return {"size": self.size}


def two_layers(model: EditableModel, moments: object, *, size: float = 0.3) -> TwoLayers:
    return TwoLayers(model, size)
