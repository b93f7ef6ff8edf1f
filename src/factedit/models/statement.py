"""A statement about a loaded model, held against what the model gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from factedit.errors import UnsupportedModel

if TYPE_CHECKING:
    from factedit.models.adapter import EditableModel

RELATIVE_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def check_statement(model: EditableModel, layer: int, statement: str, given: Tensor, expected: Tensor) -> None:
    """Refuse a model of which a statement does not hold.

    Args:
        model: whose tolerance is taken.
        layer: where.
        statement: in words.
        given, expected: of one shape.

    Raises:
        UnsupportedModel: saying by how much they differ.
    """
    error = (given - expected).norm() / given.norm().clamp(min=1e-30)
    if not error <= RELATIVE_TOLERANCE[model.dtype]:
        raise UnsupportedModel(
            f"{model.name} ({model.family.name}) does not fit its family: at layer {layer}, {statement!r} is off by "
            f"{float(error):.1e} of its size. Its configuration uses a variant that factedit does not know, so it "
            "would be traced and edited wrongly. Please report the config.json."
        )
