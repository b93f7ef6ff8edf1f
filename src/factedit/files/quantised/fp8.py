"""FP8 with a scale per block (DeepSeek-V3, arXiv 2412.19437, 3.3), per row or per matrix: W = weight · scale.

`NAME` float8 (E4M3 or E5M2), and `NAME_scale_inv` (what to multiply by, in spite of its name) `[rows of blocks, columns
of blocks]`, or `NAME_scale`: one number, one per row, or per block. A block at the edge may be smaller. Scales are
floats, or powers of two (E8M0).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from factedit.files.quantised.bits import exponents, powers
from factedit.files.quantised.kind import Headers, Kind, Packed, Parts, header, spared, wider

_SCALES = ("_scale_inv", "_scale")
_FLOATS = ("F8_E4M3", "F8_E5M2")


def find(said: Mapping[str, Any], stored: Headers, _get: Callable[[str], Tensor]) -> dict[str, Packed]:
    """Return the tensors of eight-bit floats."""
    block, weights = said.get("weight_block_size"), {}
    for name, tensor in stored.items():
        if tensor.kind in _FLOATS and not name.endswith(_SCALES):
            end = next((end for end in _SCALES if name + end in stored), _SCALES[0])
            header(stored, name + end)
            settings = {"block": tuple(block) if isinstance(block, list) and len(block) == 2 else None}
            parts = {"weight": name, "scales": name + end}
            weights[name] = Packed(name, tensor.shape, parts, name.removesuffix(".weight"), settings)
    return weights


def scale_of(scales: Tensor) -> Tensor:
    """Return scales as float32."""
    return powers(scales) if scales.dtype in (torch.float8_e8m0fnu, torch.uint8) else scales.float()


def sizes(shape: tuple[int, ...], scales: Tensor, block: tuple[int, int] | None) -> tuple[int, int]:
    """Return the rows and columns of a block: as the settings say, where the scales' shape agrees with them."""
    rows, columns = scales.shape[-2:]
    if block and (-(-shape[-2] // block[0]), -(-shape[-1] // block[1])) == (rows, columns):
        return block
    return -(-shape[-2] // rows), -(-shape[-1] // columns)


def spread(scales: Tensor, shape: tuple[int, ...], block: tuple[int, int] | None) -> Tensor:
    """Return a scale for every number of a matrix (or one that broadcasts)."""
    if scales.ndim < 2:  # one for all, or one per row
        return scales.view(-1, 1)
    high, wide = sizes(shape, scales, block)
    tall = scales.repeat_interleave(high, -2)[..., : shape[-2], :]
    return tall.repeat_interleave(wide, -1)[..., : shape[-1]]


def largest(weight: Tensor, scales: Tensor, block: tuple[int, int] | None) -> Tensor:
    """Return the largest number of every block, in the scales' shape."""
    if scales.numel() == 1:
        return weight.abs().max().view(scales.shape)
    if scales.ndim < 2:
        return weight.abs().amax(-1).view(scales.shape)
    high, wide = sizes(tuple(weight.shape), scales, block)
    rows, columns = scales.shape[-2:]
    edge = (0, columns * wide - weight.shape[-1], 0, rows * high - weight.shape[-2])
    whole = torch.nn.functional.pad(weight.abs(), edge)
    most: Tensor = whole.unflatten(-1, (columns, wide)).unflatten(-3, (rows, high)).amax((-1, -3))
    return most


def read(packed: Packed, parts: Parts) -> Tensor:
    """Return W in the shape it is stored in."""
    return parts["weight"].float() * spread(scale_of(parts["scales"]), packed.shape, packed.said["block"])


def write(packed: Packed, parts: Parts, weight: Tensor) -> Parts:
    """Return parts for W."""
    kind, block = parts["weight"].dtype, packed.said["block"]
    top = torch.finfo(kind).max
    scales = grown(parts["scales"], largest(weight, parts["scales"], block) / top)
    q = (weight / spread(scale_of(scales), packed.shape, block)).clamp(-top, top)
    return {**parts, "weight": q.to(kind), "scales": scales}


def grown(scales: Tensor, need: Tensor) -> Tensor:
    """Return scales, larger where a block needs it."""
    if scales.dtype not in (torch.float8_e8m0fnu, torch.uint8):
        return wider(scales, need)
    raw = scales.view(torch.uint8)
    return torch.where(need > powers(scales), exponents(need), raw).view(scales.dtype)


KIND = Kind("fp8", find, read, write, spared("modules_to_not_convert"))
BY_ROWS = Kind("fbgemm_fp8", find, read, write, spared("modules_to_not_convert"))
