"""GPTQ (arXiv 2210.17323) as AutoGPTQ and GPTQModel store it: W[i, o] = scales[g, o] (q[i, o] − z[g, o]), g = g_idx[i].

`qweight` `[d_in · bits / 32, d_out]`, `qzeros` `[groups, d_out · bits / 32]` (int32, lowest bits first), `scales`
`[groups, d_out]`, `g_idx` `[d_in]`. Format (`checkpoint_format`, or `format`) `gptq` stores z − 1, `gptq_v2` stores z.
`dynamic` gives some modules bits and groups of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from factedit.files.quantised.bits import WORD, pack, unpack
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
    packed_words,
    whole_number,
)


def find(said: Mapping[str, Any], stored: Headers, _get: Callable[[str], Tensor]) -> dict[str, Packed]:
    """Return the weights whose `qweight` is there."""
    form, weights = said.get("checkpoint_format") or said.get("format") or "gptq", {}
    _check_variant(whole_number(said, "bits"), form)
    for module in matrices(stored, ".qweight"):
        settings = _settings(said, module)
        bits, size = whole_number(settings, "bits"), whole_number(settings, "group_size", -1)
        _check_variant(bits, form)
        parts = {role: f"{module}.{role}" for role in ("qweight", "qzeros", "scales")}
        rows, d_out = packed_words(stored, parts["qweight"])
        d_in = rows * WORD // bits
        parts |= optional(stored, module, g_idx="g_idx")
        _check_parts(stored, parts, (d_in, d_out), bits, size if size > 0 else d_in)
        read_by = {"bits": bits, "less": int(form == "gptq"), "group": size}
        name = f"{module}.weight"
        weights[name] = Packed(name, (d_out, d_in), parts, module, read_by)
    return weights


def _settings(said: Mapping[str, Any], module: str) -> Mapping[str, Any]:
    """Return the settings of a module: those of the first `dynamic` rule that names it go before the whole's."""
    for rule, changes in (said.get("dynamic") or {}).items():
        if re.match(rule.removeprefix("-:").removeprefix("+:"), module):
            return said if rule.startswith("-:") else {**said, **changes}
    return said


def _check_variant(bits: int, form: Any) -> None:
    if bits not in (2, 3, 4, 8) or form not in ("gptq", "gptq_v2"):
        raise not_read("gptq", f"{bits} bits, stored as {form!r}")


def _check_parts(stored: Headers, parts: Mapping[str, str], shape: tuple[int, int], bits: int, size: int) -> None:
    """Refuse zeros, scales and groups of other sizes than W `[d_in, d_out]` has, which would be repeated or cut."""
    d_in, d_out = shape
    groups, columns = packed_words(stored, parts["qzeros"])
    if columns != -(-d_out * bits // WORD) or ("g_idx" not in parts and groups != -(-d_in // size)):
        name = parts["qzeros"]
        raise misfit(name, stored[name], f"the zeros of {d_out} columns in groups of {size} of {d_in} rows")
    wanted = {"scales": (groups, d_out), "g_idx": (d_in,)}
    for role in wanted.keys() & parts.keys():
        part = header(stored, parts[role])
        if part.shape != wanted[role]:
            raise misfit(parts[role], part, f"{list(wanted[role])}, as its zeros and numbers have it")


def _groups(packed: Packed, parts: Parts) -> Tensor:
    """Return the group of every row of W `[d_in]`."""
    if "g_idx" in parts:
        if bool((parts["g_idx"] < 0).any()):
            raise IndexError("g_idx holds a group below 0")
        return parts["g_idx"].long()
    size = packed.said["group"] if packed.said["group"] > 0 else packed.shape[1]
    return torch.arange(packed.shape[1]) // size


def _zeros(packed: Packed, parts: Parts) -> Tensor:
    bits = packed.said["bits"]
    less, most = int(packed.said["less"]), (1 << int(bits)) - 1
    return (unpack(parts["qzeros"], bits, packed.shape[0]) + less) & most


def read(packed: Packed, parts: Parts) -> Tensor:
    """Return W `[d_out, d_in]`."""
    group = _groups(packed, parts)
    q = unpack(parts["qweight"].T, packed.said["bits"], packed.shape[1])
    scales, zeros = parts["scales"].float().T, _zeros(packed, parts).T
    return (q - zeros[:, group]) * scales[:, group]


def write(packed: Packed, parts: Parts, weight: Tensor) -> Parts:
    """Return parts for W `[d_out, d_in]`; a group keeps its scale and zero unless new ones come nearer."""
    bits, group = packed.said["bits"], _groups(packed, parts)
    scales, zeros = refit(weight, parts["scales"].T, _zeros(packed, parts).T, group, bits)
    q = (weight / scales.float()[:, group]).round() + zeros[:, group]
    q = q.clamp(0, (1 << bits) - 1).to(torch.int32)
    stored = (zeros.T - packed.said["less"]) & ((1 << bits) - 1)
    new = {"qweight": pack(q, bits).T, "qzeros": pack(stored, bits), "scales": scales.T}
    return {**parts, **{role: tensor.contiguous() for role, tensor in new.items()}}


def refit(weight: Tensor, scales: Tensor, zeros: Tensor, group: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return scales and zeros `[d_out, groups]`: as they are, or of a group made anew where that comes nearer to W.

    Args:
        weight: W `[d_out, d_in]`.
        scales, zeros: as they are, `[d_out, groups]`.
        group: of every column of W, `[d_in]`.
        bits: of a number.
    """
    most, index = (1 << bits) - 1, group.expand(weight.shape[0], -1)
    low = torch.zeros(scales.shape).scatter_reduce(1, index, weight, "amin")  # zero itself can be stored
    high = torch.zeros(scales.shape).scatter_reduce(1, index, weight, "amax")
    new = ((high - low) / most).clamp(min=torch.finfo(scales.dtype).tiny).to(scales.dtype)
    zero = (-low / new.float()).round().clamp(0, most).to(zeros.dtype)

    def off(scale: Tensor, at: Tensor) -> Tensor:
        wide, centre = scale.float()[:, group], at[:, group]
        squares = ((weight / wide).round().clamp(-centre, most - centre) * wide - weight).square()
        return torch.zeros(scales.shape).scatter_add(1, index, squares)

    nearer = off(new, zero) < off(scales, zeros)
    return torch.where(nearer, new, scales), torch.where(nearer, zero, zeros)


def spare(said: Mapping[str, Any], modules: Sequence[str], _plain: Sequence[str]) -> dict[str, Any]:
    """Return the settings with modules left out, as GPTQModel and vLLM read them (`dynamic`, a rule with `-:`)."""
    rules: dict[str, Any] = {f"-:^{re.escape(module)}$": {} for module in modules}
    return {**said, "dynamic": {**rules, **(said.get("dynamic") or {})}}


KIND = Kind("gptq", find, read, write, spare)
