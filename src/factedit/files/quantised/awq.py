"""AWQ (arXiv 2306.00978) as AutoAWQ's `gemm` stores it: W[i, o] = scales[g, o] (q[i, o] − z[g, o]), g = i // group.

`qweight` `[d_in, d_out / 8]` and `qzeros` `[groups, d_out / 8]` (int32), `scales` `[groups, d_out]`. The eight numbers
of a word stand in the order 0 2 4 6 1 3 5 7, lowest bits first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from factedit.files.quantised.bits import WORD, pack, unpack
from factedit.files.quantised.gptq import refit
from factedit.files.quantised.kind import (
    Headers,
    Kind,
    Packed,
    Parts,
    header,
    matrices,
    misfit,
    not_read,
    packed_words,
    spared,
    whole_number,
)

BITS = 4
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the column that stands at each place of a word
_BACK = tuple(ORDER.index(column) for column in range(len(ORDER)))


def find(said: Mapping[str, Any], stored: Headers, _get: Callable[[str], Tensor]) -> dict[str, Packed]:
    """Return the weights whose `qweight` is there."""
    bits = whole_number(said, "bits", said.get("w_bit", BITS))
    version = "llm-awq" if said.get("backend") == "llm-awq" else said.get("version") or said.get("format") or "gemm"
    if bits != BITS or str(version).lower() != "gemm":
        raise not_read("awq", f"{bits} bits, stored as {version!r}")
    weights = {}
    for module in matrices(stored, ".qweight"):
        parts = {role: f"{module}.{role}" for role in ("qweight", "qzeros", "scales")}
        d_in, columns = packed_words(stored, parts["qweight"])
        (groups, wide), scales = packed_words(stored, parts["qzeros"]), header(stored, parts["scales"])
        if not groups or d_in % groups or wide != columns or scales.shape != (groups, columns * WORD // BITS):
            raise misfit(parts["scales"], scales, f"scales of the {groups} groups of its zeros, in {d_in} rows")
        weights[f"{module}.weight"] = Packed(
            f"{module}.weight", (columns * WORD // BITS, d_in), parts, module, {"group": d_in // groups}
        )
    return weights


def _numbers(words: Tensor, d_out: int) -> Tensor:
    """[rows, d_out / 8] words -> [rows, d_out] numbers."""
    numbers: Tensor = unpack(words, BITS, d_out).unflatten(-1, (-1, len(ORDER)))[..., _BACK].flatten(-2)
    return numbers


def _words(numbers: Tensor) -> Tensor:
    return pack(numbers.unflatten(-1, (-1, len(ORDER)))[..., ORDER].flatten(-2), BITS)


def read(packed: Packed, parts: Parts) -> Tensor:
    """Return W `[d_out, d_in]`."""
    group = torch.arange(packed.shape[1]) // packed.said["group"]
    q, z = (_numbers(parts[role], packed.shape[0]) for role in ("qweight", "qzeros"))
    return ((q - z[group]) * parts["scales"].float()[group]).T.contiguous()


def write(packed: Packed, parts: Parts, weight: Tensor) -> Parts:
    """Return parts for W `[d_out, d_in]`; a group keeps its scale and zero unless new ones come nearer."""
    group = torch.arange(packed.shape[1]) // packed.said["group"]
    z = _numbers(parts["qzeros"], packed.shape[0])
    scales, zeros = refit(weight, parts["scales"].T, z.T, group, BITS)
    q = ((weight / scales.float()[:, group]).round() + zeros[:, group]).clamp(0, (1 << BITS) - 1).to(torch.int32)
    new = {"qweight": _words(q.T), "qzeros": _words(zeros.T), "scales": scales.T}
    return {role: tensor.contiguous() for role, tensor in new.items()}


KIND = Kind("awq", find, read, write, spared("modules_to_not_convert"))
