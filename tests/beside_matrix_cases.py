"""What tests of effects beside a matrix ask of a tiny GPT-2."""

from __future__ import annotations

import torch
from torch import Tensor

from factedit.edit.artefact import Edit
from factedit.edit.effects.effect import Effect
from factedit.models.adapter import EditableModel
from plain import value_at

IDS = torch.tensor([[5, 17, 99, 40, 7]])


def edit_of(*effects: Effect) -> Edit:
    return Edit(method="by hand", requests=(), effects=effects, made_for="any")


@torch.no_grad()
def logits(model: EditableModel, rows: int = 1) -> Tensor:
    return model.lm(input_ids=IDS.repeat(rows, 1)).logits


def key_at(model: EditableModel, token: int, layer: int = 1) -> Tensor:
    return value_at(model, IDS[0].tolist(), layer, token)[0]
