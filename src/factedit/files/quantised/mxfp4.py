"""MXFP4 as gpt-oss stores its experts: W = E2M1 · 2^(scale − 127) (OCP Microscaling Formats 1.0).

`NAME_blocks` uint8 `[experts, d_out, d_in / 32, 16]` (two numbers a byte, the first in the low half), `NAME_scales`
uint8 `[experts, d_out, d_in / 32]`; transformers keeps the weight as `NAME` `[experts, d_in, d_out]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from factedit.errors import ModelError
from factedit.files.quantised.bits import E2M1, coded, halves, join_halves, nearer, powers
from factedit.files.quantised.fp8 import grown
from factedit.files.quantised.kind import Headers, Kind, Packed, Parts, header, matrices, spared

TOP, SIZE = 6.0, 32


def find(_said: Mapping[str, Any], stored: Headers, _get: Callable[[str], Tensor]) -> dict[str, Packed]:
    """Return the weights whose `_blocks` are there."""
    weights = {}
    for name in matrices(stored, "_blocks"):
        parts = {"blocks": f"{name}_blocks", "scales": f"{name}_scales"}
        shape = header(stored, parts["blocks"]).shape
        if len(shape) != 4 or shape[3] * 2 != SIZE or header(stored, parts["scales"]).shape != shape[:3]:
            raise ModelError(f"{parts['blocks']!r} {list(shape)} is not stored as MXFP4 is. Get the model again.")
        weights[name] = Packed(name, (shape[0], shape[2] * SIZE, shape[1]), parts, name.rpartition(".")[0])
    return weights


def read(_packed: Packed, parts: Parts) -> Tensor:
    """Return W `[experts, d_in, d_out]`."""
    values = coded(halves(parts["blocks"]), torch.tensor(E2M1)) * powers(parts["scales"]).unsqueeze(-1)
    return values.flatten(2).transpose(1, 2).contiguous()


def write(_packed: Packed, parts: Parts, weight: Tensor) -> Parts:
    """Return parts for W `[experts, d_in, d_out]`."""
    blocks = weight.transpose(1, 2).unflatten(2, (-1, SIZE))
    scales = grown(parts["scales"], blocks.abs().amax(-1) / TOP)
    numbers, larger = nearer(blocks, halves(parts["blocks"]), powers(parts["scales"]), powers(scales))
    return {"blocks": join_halves(numbers), "scales": torch.where(larger, scales, parts["scales"])}


KIND = Kind("mxfp4", find, read, write, spared("modules_to_not_convert"))
