"""A .gguf file with only the edited tensors rewritten; the bytes of all others stay as they are.

A tensor stored as F32, F16, BF16 or Q8_0 is stored so again, which takes as many bytes, and nothing else moves. Of the
other kinds (K-quants and the like) a small ΔW may be lost: their edited tensors are stored in a wider kind within the
file (what follows moves up) or quantised anew in their own, whichever is asked for; neither is done unasked. How much
of ΔW survives the rounding is measured.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from factedit.edit.artefact import Edit, weights_of
from factedit.edit.effects.weights import changed_at, places_of
from factedit.errors import EditError, UnsupportedModel, UsageError
from factedit.export.lora import GGUF_MATRIX, refuse_experts
from factedit.files.gguf_bytes import Cursor
from factedit.files.gguf_quants import LAYOUTS, encode
from factedit.files.gguf_reader import GgufFile
from factedit.models.adapter import EditableModel
from factedit.models.families import Place

STORED_AS = {"F32": 0, "F16": 1, "BF16": 30, "Q8_0": 8}  # as ggml counts


@dataclass(frozen=True)
class Patched:
    """One rewritten tensor.

    Attributes:
        tensor: its name in the file.
        was, now: how it was and is stored.
        error: ‖stored change − ΔW‖ / ‖ΔW‖.
        kept: ⟨stored change, ΔW⟩ / ‖ΔW‖²: the share of the change that is stored.
    """

    tensor: str
    was: str
    now: str
    error: float
    kept: float = 1.0


def patch_gguf(
    file: GgufFile,
    model: EditableModel,
    edits: Sequence[Edit],
    path: Path,
    *,
    store_as: str | None = None,
    requantise: bool = False,
) -> list[Patched]:
    """Write the file with the edits on it.

    Args:
        file: the base.
        model: loaded from it (float32); not changed.
        edits: in order.
        path: where to; must not exist.
        store_as: `F32`, `F16`, `BF16` or `Q8_0`: how to store the edited tensors; default: as they are stored.
        requantise: quantise them anew in the kind they are stored in.

    Returns:
        What was rewritten, and how exactly it holds the change.

    Raises:
        EditError: a tensor is stored in a way that cannot be written; the message names the alternatives.
        UsageError: an unknown `store_as`, or one with `requantise`.
        UnsupportedModel: the file does not hold the model's tensor.
    """
    if store_as is not None and store_as not in STORED_AS:
        raise UsageError(f"Tensors cannot be stored as {store_as!r}. Known: {', '.join(STORED_AS)}.")
    refuse_experts(places_of(weights_of(edits)), "A GGUF file, as it is patched here,")
    if store_as is not None and requantise:
        raise UsageError(f"Edited tensors are stored as {store_as}, or quantised anew in their own kind. Name one.")
    new: dict[str, tuple[int, bytes]] = {}
    report = []
    for (layer, which), wanted, delta in _edited(model, edits):
        name = f"blk.{layer}.{GGUF_MATRIX[which]}.weight"
        kind = _kind(file, name, store_as, requantise)
        before, rows = file.read(name), np.ascontiguousarray(wanted.T.numpy())
        if before.shape != rows.shape:
            raise UnsupportedModel(f"{name} of {file.name} is {list(before.shape)}; the edit needs {list(rows.shape)}.")
        raw, stored = _stored(rows, kind, file, name)
        if not np.isfinite(stored).all():
            raise EditError(f"{name} with the edit does not fit into {kind}: it holds larger values. Use BF16 or F32.")
        new[name] = (_code(kind), raw)
        change, size = (stored - before).astype(np.float64), max(float(delta.norm()), 1e-30)
        error = float(np.linalg.norm(change - delta.T.numpy()) / size)
        kept = float((change * delta.T.numpy()).sum() / size**2)
        report.append(Patched(name, _name(file.tensors[name].kind), kind, error, kept))
    with path.open("xb") as target:
        for part in _parts(file, new):
            target.write(part)
    return report


def _edited(model: EditableModel, edits: Sequence[Edit]) -> Iterator[tuple[Place, torch.Tensor, torch.Tensor]]:
    """Each edited matrix `[d_in, d_out]` in float32, and its ΔW."""
    changes = weights_of(edits)
    for place in places_of(changes):
        before = model.weight(*place).float().cpu()
        weight = changed_at(place, before, changes)
        yield place, weight, weight - before


def _kind(file: GgufFile, name: str, store_as: str | None, requantise: bool) -> str:
    if name not in file.tensors:
        raise UnsupportedModel(f"{file.name} holds no tensor {name!r}: it is not the model the edit was made for.")
    was = _name(file.tensors[name].kind)
    if store_as is None and was not in STORED_AS and not (requantise and was in LAYOUTS):
        known = was in LAYOUTS
        raise EditError(
            f"The tensor {name} of {file.name} is stored as {was}, "
            f"{'which would round the change' if known else 'which cannot be written'}, so the file cannot hold "
            "the change as it is. Store that one tensor wider within the file (--store-as F16, BF16, F32 or Q8_0), "
            f"{'quantise it anew and be told what is lost (--requantise), ' if known else ''}"
            "patch an F16 or Q8_0 file of the same model, or ship the edit as 'llama-lora', 'peft' or 'merged'."
        )
    return store_as or was


def _stored(rows: np.ndarray, kind: str, file: GgufFile, name: str) -> tuple[bytes, np.ndarray]:
    """A matrix as bytes of a kind, and as it will be read back; of a quantised one on its own scales where they fit."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    code, was = GGMLQuantizationType(_code(kind)), file.tensors[name]
    if kind in LAYOUTS and was.kind == code:
        count, size = GGML_QUANT_SIZES[code]
        blocks = np.frombuffer(file.data, dtype=np.uint8, count=was.size, offset=was.start).reshape(-1, size)
        raw = encode(kind, blocks, rows.reshape(-1, count)).reshape(len(rows), -1)
    else:
        with np.errstate(over="ignore"):  # what does not fit is refused by whoever asked
            raw = quantize(rows, code)
    return raw.tobytes(), dequantize(raw, code).reshape(rows.shape)


def _parts(file: GgufFile, new: Mapping[str, tuple[int, bytes]]) -> Iterator[Any]:
    """The new file, piece by piece: the header with kinds and offsets set, then every tensor in its old order."""
    table, end = _table(file)
    order = sorted(file.tensors.values(), key=lambda tensor: tensor.start)
    alignment = int(file.metadata.get("general.alignment", 32))
    data_start, at = -(-end // alignment) * alignment, 0
    header = bytearray(file.data[:data_start])
    for tensor in order:
        kind, raw = new.get(tensor.name, (tensor.kind, b""))
        size = len(raw) or tensor.size
        struct.pack_into("<IQ", header, table[tensor.name], kind, at)
        at += -(-size // alignment) * alignment
    yield header
    for tensor in order:
        if tensor.name in new:
            size = len(new[tensor.name][1])
            yield new[tensor.name][1]
        else:
            size = tensor.size
            yield from file.pieces(tensor.start, tensor.start + size)
        yield b"\0" * (-size % alignment)


def _table(file: GgufFile) -> tuple[dict[str, int], int]:
    """Where the kind and offset of every tensor stand in the header, and where the table ends."""
    cursor, places = Cursor(file.data, file.name), {}
    cursor.at = file.pairs[1]
    for _ in file.tensors:
        name = cursor.string("a tensor's name")
        dimensions = cursor.scalar("<I", f"the shape of {name!r}")
        cursor.at += 8 * dimensions
        places[name] = cursor.at
        cursor.at += 12
    return places, cursor.at


def _code(kind: str) -> int:
    from gguf.constants import GGMLQuantizationType

    return int(GGMLQuantizationType[kind])


def _name(kind: int) -> str:
    from gguf.constants import GGMLQuantizationType

    return GGMLQuantizationType(kind).name
