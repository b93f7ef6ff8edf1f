"""compressed-tensors, as llm-compressor and vLLM use it: W = (q − zero point) · scale, by matrix, row, group or block.

Whole numbers in words: `weight_packed` int32 `[d_out, d_in · bits / 32]` (stored plus 2^(bits−1)), `weight_scale`
`[d_out, groups]`, `weight_shape`, `weight_zero_point` (packed along d_out), `weight_g_idx`. Eight bits: `weight` int8
or float8. FP4: `weight_packed` uint8, with scales that are powers of two (MXFP4) or float8 over `weight_global_scale`
(NVFP4).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from factedit.errors import ModelError
from factedit.files.quantised import fp8
from factedit.files.quantised.bits import E2M1, coded, halves, join_halves, nearer, pack, unpack
from factedit.files.quantised.gptq import refit
from factedit.files.quantised.kind import (
    Headers,
    Kind,
    Packed,
    Parts,
    header,
    matrices,
    not_read,
    optional,
    spared,
    whole_number,
)
from factedit.files.quantised.mxfp4 import TOP

_ENDS = {
    "scales": "weight_scale", "zeros": "weight_zero_point", "g_idx": "weight_g_idx", "outer": "weight_global_scale",
    "size": "weight_shape",
}  # fmt: skip
_FORMATS = (
    "dense", "int-quantized", "float-quantized", "naive-quantized", "pack-quantized", "mixed-precision",
    "nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp8-quantized",
)  # fmt: skip
_EIGHT = ("I8", "F8_E4M3", "F8_E5M2")


def find(said: Mapping[str, Any], stored: Headers, get: Callable[[str], Tensor]) -> dict[str, Packed]:
    """Return the weights that are packed, or stored in eight bits."""
    _check_variant(said)
    weights = {}
    for module in matrices(stored, ".weight_packed"):
        weights[f"{module}.weight"] = _packed(module, said, stored, get)
    for name, tensor in stored.items():
        if name.endswith(".weight") and tensor.kind in _EIGHT:
            module = name.removesuffix(".weight")
            header(stored, f"{module}.weight_scale")
            settings = {"form": "eight", "bits": 8, "block": _settings(said, module).get("block_structure")}
            parts = {"weight": name, **optional(stored, module, **_ENDS)}
            weights[name] = Packed(name, tensor.shape, parts, module, settings)
    return weights


def _check_variant(said: Mapping[str, Any]) -> None:
    """Refuse ways of storing that look like others: six bits in bytes, columns that are left out, turned weights."""
    sparse = (said.get("sparsity_config") or {}).get("format", "dense")
    if sparse != "dense":
        raise not_read("compressed-tensors", f"the sparse format {sparse!r}")
    groups = (said.get("config_groups") or {}).values()
    for form in (said.get("format"), *(group.get("format") for group in groups if isinstance(group, dict))):
        if form is not None and form not in _FORMATS:
            raise not_read("compressed-tensors", f"the format {form!r}")
    if (said.get("transform_config") or {}).get("config_groups"):
        raise not_read("compressed-tensors", "weights that are turned (transform_config), and turned back as they run")


def _packed(module: str, said: Mapping[str, Any], stored: Headers, get: Callable[[str], Tensor]) -> Packed:
    name = f"{module}.weight"
    parts = {"weight": f"{module}.weight_packed", **optional(stored, module, **_ENDS)}
    words = header(stored, parts["weight"])
    header(stored, f"{module}.weight_scale")
    if words.kind == "U8":
        return Packed(name, (words.shape[0], 2 * words.shape[1]), parts, module, {"form": "fp4", "bits": 4})
    shape = tuple(int(size) for size in get(_there(stored, f"{module}.weight_shape")))
    bits = whole_number(_settings(said, module), "num_bits")
    if not 1 <= bits <= 8 or shape[0] != words.shape[0] or -(-shape[1] * bits // 32) != words.shape[1]:
        raise ModelError(
            f"{parts['weight']!r} {list(words.shape)} cannot hold {list(shape)} in {bits} bits. Get the model again."
        )
    return Packed(name, shape, parts, module, {"form": "words", "bits": bits})


def _there(stored: Headers, name: str) -> str:
    header(stored, name)
    return name


def _settings(said: Mapping[str, Any], module: str) -> Mapping[str, Any]:
    """Return the settings of the group whose targets name a module, or its class."""
    groups = [group for group in (said.get("config_groups") or {}).values() if isinstance(group, dict)]
    for group in groups:
        targets = [str(target) for target in group.get("targets") or ()]
        named = [t for t in targets if module == t or (t.startswith("re:") and re.match(t[3:], module))]
        if named:
            return group.get("weights") or {}
    for_linear = [group for group in groups if "Linear" in (group.get("targets") or ())]
    return (for_linear[0].get("weights") or {}) if for_linear else {}


def _zeros(packed: Packed, parts: Parts) -> Tensor:
    """Return what stands for zero, as whole numbers from −2^(bits−1) on; in a shape that `fp8.spread` takes."""
    bits, zeros = int(packed.said["bits"]), parts.get("zeros")
    if zeros is None:
        return torch.zeros(parts["scales"].shape, dtype=torch.int32)
    if zeros.dtype == torch.int32 and packed.said["form"] == "words":
        return unpack(zeros.T, bits, packed.shape[0]).T - (1 << (bits - 1))
    return zeros.to(torch.int32)


def _group(packed: Packed, parts: Parts) -> Tensor:
    """Return the group of every column `[d_in]`."""
    if "g_idx" in parts and bool((parts["g_idx"] >= 0).all()):
        return parts["g_idx"].long()
    groups = parts["scales"].shape[-1] if parts["scales"].ndim == 2 else 1
    return torch.arange(packed.shape[1]) // -(-packed.shape[1] // groups)


def _fp4_scales(parts: Parts, scales: Tensor) -> Tensor:
    return fp8.scale_of(scales) / parts["outer"].float() if "outer" in parts else fp8.scale_of(scales)


def read(packed: Packed, parts: Parts) -> Tensor:
    """Return W `[d_out, d_in]`."""
    if packed.said["form"] == "fp4":
        scales = _fp4_scales(parts, parts["scales"])
        return coded(halves(parts["weight"]), torch.tensor(E2M1)) * fp8.spread(scales, packed.shape, None)
    if parts["weight"].is_floating_point():
        return fp8.read(packed, parts)
    q = parts["weight"].float()
    if packed.said["form"] == "words":
        bits = packed.said["bits"]
        q = (unpack(parts["weight"], bits, packed.shape[1]) - (1 << (bits - 1))).float()
    scales, zeros = (_wide(packed, parts, narrow) for narrow in (parts["scales"].float(), _zeros(packed, parts)))
    return (q - zeros) * scales


def _wide(packed: Packed, parts: Parts, narrow: Tensor) -> Tensor:
    """Return a number for every one of W, from one per block or group."""
    block = packed.said.get("block")
    if block or narrow.ndim < 2:
        return fp8.spread(narrow, packed.shape, tuple(block) if block else None)
    return narrow[:, _group(packed, parts)] if narrow.shape[0] > 1 else narrow[0, _group(packed, parts)]


def write(packed: Packed, parts: Parts, weight: Tensor) -> Parts:
    """Return parts for W `[d_out, d_in]`."""
    if packed.said["form"] == "fp4":
        return _write_fp4(parts, weight)
    if parts["weight"].is_floating_point():
        return fp8.write(packed, parts, weight)
    bits, scales, zeros = packed.said["bits"], parts["scales"], _zeros(packed, parts)
    half = 1 << (bits - 1)
    if "zeros" in parts and scales.ndim == 2 and scales.shape[0] == weight.shape[0] and not packed.said.get("block"):
        scales, free = refit(weight, scales, zeros + half, _group(packed, parts), bits)
        zeros = free - half
    elif "zeros" not in parts:
        scales = fp8.grown(scales, _largest(packed, parts, weight) / (half - 1 or 1))
    grown = {**parts, "scales": scales}
    q = (weight / _wide(packed, grown, scales.float())).round() + _wide(packed, grown, zeros)
    q = q.clamp(-half, half - 1).to(torch.int32)
    stored = pack(q + half, bits) if packed.said["form"] == "words" else q.to(torch.int8)
    new = {**grown, "weight": stored}
    if "zeros" in parts:
        packs = parts["zeros"].dtype == torch.int32 and packed.said["form"] == "words"
        new["zeros"] = pack((zeros + half).T, bits).T.contiguous() if packs else zeros.to(parts["zeros"].dtype)
    return new


def _write_fp4(parts: Parts, weight: Tensor) -> Parts:
    outer, before = float(parts["outer"]) if "outer" in parts else 1.0, parts["scales"]
    blocks = weight.unflatten(-1, (before.shape[-1], -1))
    scales = fp8.grown(before, blocks.abs().amax(-1) / TOP * outer)
    numbers = halves(parts["weight"]).unflatten(-1, (before.shape[-1], -1))
    new, larger = nearer(blocks, numbers, *(_fp4_scales(parts, candidate) for candidate in (before, scales)))
    kept = torch.where(larger, scales.view(torch.uint8), before.view(torch.uint8)).view(before.dtype)
    return {**parts, "weight": join_halves(new.flatten(-2)), "scales": kept}


def _largest(packed: Packed, parts: Parts, weight: Tensor) -> Tensor:
    """Return the largest number of every group or block, in the scales' shape."""
    scales, block = parts["scales"], packed.said.get("block")
    if block or scales.ndim < 2 or scales.shape[0] == 1:
        return fp8.largest(weight, scales, tuple(block) if block else None)
    index = _group(packed, parts).expand(weight.shape[0], -1)
    return torch.zeros(scales.shape).scatter_reduce(1, index, weight.abs(), "amax")


KIND = Kind("compressed-tensors", find, read, write, spared("ignore"))
