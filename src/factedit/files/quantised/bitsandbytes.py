"""bitsandbytes: eight bits (LLM.int8(), arXiv 2208.07339) and four (NF4 and FP4, QLoRA, arXiv 2305.14314).

Eight bits: `weight` int8 `[d_out, d_in]`, `SCB` float32 `[d_out]` (the rows' largest numbers): W = weight · SCB / 127.
Four bits: `weight` uint8 (two numbers a byte, the first in the high half), `weight.quant_map` (the 16 values),
`weight.absmax` per block, and a JSON object in bytes, `weight.quant_state.bitsandbytes__nf4` (or `fp4`): W = value ·
absmax. Where absmax is quantised itself (double quantisation), it is nested_quant_map[absmax] · nested_absmax + offset.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from factedit.errors import ModelError, first_line
from factedit.files.quantised.bits import coded, halves, join_halves, nearest
from factedit.files.quantised.kind import (
    Headers,
    Kind,
    Packed,
    Parts,
    header,
    matrices,
    misfit,
    not_read,
    optional,
    spared,
    wider,
)

_STATE = "weight.quant_state.bitsandbytes__"
_MOST = 127


def find(_said: Mapping[str, Any], stored: Headers, get: Callable[[str], Tensor]) -> dict[str, Packed]:
    """Return the weights that have an `SCB` or a state of four bits."""
    weights = {}
    for module in matrices(stored, ".SCB"):
        parts = {"weight": f"{module}.weight", "scales": f"{module}.SCB"}
        parts |= optional(stored, module, form="weight_format")
        if "form" in parts and int(get(parts["form"])):
            raise not_read("bitsandbytes", "eight bits in another order than by rows")
        name = parts["weight"]
        weight, scales = header(stored, name), header(stored, parts["scales"])
        if weight.kind != "I8" or len(weight.shape) != 2:
            raise misfit(name, weight, "a matrix of whole numbers of eight bits")
        if scales.shape != weight.shape[:1]:
            raise misfit(parts["scales"], scales, f"a scale for each of {weight.shape[0]} rows")
        weights[name] = Packed(name, weight.shape, parts, module)
    for four in ("nf4", "fp4"):
        for module in matrices(stored, f".{_STATE}{four}"):
            weights[f"{module}.weight"] = _four(module, four, stored, get)
    return weights


def _four(module: str, four: str, stored: Headers, get: Callable[[str], Tensor]) -> Packed:
    ends = {"weight": "weight", "absmax": "weight.absmax", "map": "weight.quant_map", "state": f"{_STATE}{four}"}
    nested = {"nested_absmax": "weight.nested_absmax", "nested_map": "weight.nested_quant_map"}
    parts = {role: f"{module}.{end}" for role, end in ends.items()}
    for name in parts.values():
        header(stored, name)
    parts |= optional(stored, module, **nested)
    for name in nested.values() if nested.keys() & parts.keys() else ():
        header(stored, f"{module}.{name}")
    try:
        state = json.loads(bytes(get(parts["state"]).numpy()))
        shape = tuple(int(size) for size in state["shape"])
        settings: dict[str, Any] = {"block": int(state["blocksize"])}
        if "nested_absmax" in parts:
            settings |= {"nested_block": int(state["nested_blocksize"]), "offset": float(state["nested_offset"])}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(
            f"The state of {module} by bitsandbytes is damaged ({first_line(error)}). Get the model again."
        ) from error
    if (
        settings["block"] < 1
        or settings.get("nested_block", 1) < 1
        or min(shape, default=1) < 0
        or -(-prod(shape) // 2) != prod(header(stored, parts["weight"]).shape)
        or (header(stored, parts["absmax"]).kind == "U8") != ("nested_absmax" in parts)
        or prod(header(stored, parts["absmax"]).shape) != -(-prod(shape) // settings["block"])
    ):
        raise ModelError(f"The state of {module} by bitsandbytes does not fit its numbers. Get the model again.")
    return Packed(parts["weight"], shape, parts, module, settings)


def _largest(packed: Packed, parts: Parts) -> Tensor:
    """Return the largest number of every block."""
    if "nested_absmax" not in parts:
        return parts["absmax"].float().flatten()
    outer = parts["nested_absmax"].float()[_block(parts["absmax"], packed.said["nested_block"])]
    return coded(parts["absmax"].flatten(), parts["nested_map"]) * outer + float(packed.said["offset"])


def _block(tensor: Tensor, size: int) -> Tensor:
    return torch.arange(tensor.numel()) // size


def read(packed: Packed, parts: Parts) -> Tensor:
    """Return W `[d_out, d_in]`."""
    if "scales" in parts:
        return parts["weight"].float() * parts["scales"].float().unsqueeze(1) * (1 / _MOST)
    values = coded(halves(parts["weight"].flatten(), high_first=True), parts["map"])[: prod(packed.shape)]
    return (values * _largest(packed, parts)[_block(values, packed.said["block"])]).view(packed.shape)


def write(packed: Packed, parts: Parts, weight: Tensor) -> Parts:
    """Return parts for W `[d_out, d_in]`."""
    if "scales" in parts:
        scales = wider(parts["scales"], weight.abs().amax(1))
        q = (weight * (_MOST / scales.unsqueeze(1))).round().clamp(-_MOST, _MOST)
        return {**parts, "weight": q.to(torch.int8), "scales": scales}
    flat, size = weight.flatten(), packed.said["block"]
    block = _block(flat, size)
    need = torch.zeros(int(block[-1]) + 1).scatter_reduce(0, block, flat.abs(), "amax")
    new = {**parts, "absmax": _wider(packed, parts, need)}
    values = flat / _largest(packed, new)[block].clamp(min=torch.finfo(torch.float32).tiny)
    q = nearest(values, parts["map"], halves(parts["weight"].flatten(), high_first=True)[: values.numel()])
    q = torch.nn.functional.pad(q, (0, 2 * parts["weight"].numel() - q.numel()))
    return {**new, "weight": join_halves(q, high_first=True).view(parts["weight"].shape)}


def _wider(packed: Packed, parts: Parts, need: Tensor) -> Tensor:
    """Return `absmax`, larger where a block needs it; a quantised one by the next of its values above."""
    if "nested_absmax" not in parts:
        return wider(parts["absmax"], need.view(parts["absmax"].shape))
    outer = parts["nested_absmax"].float()[_block(need, packed.said["nested_block"])]
    order = parts["nested_map"].float().sort()
    at = torch.searchsorted(order.values, (need - packed.said["offset"]) / outer.clamp(min=1e-30))
    above = order.indices[at.clamp(max=len(order.values) - 1)].to(torch.uint8).view(parts["absmax"].shape)
    return torch.where((need > _largest(packed, parts)).view(above.shape), above, parts["absmax"])


KIND = Kind("bitsandbytes", find, read, write, spared("llm_int8_skip_modules"))
