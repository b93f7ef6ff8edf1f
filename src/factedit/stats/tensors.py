"""Tensors of statistics on disk, with a hash of them and of what is said of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from factedit.cache import writing
from factedit.errors import DataError

HASH = "sha256"  # in the header: of the tensors and the other notes


def write_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
    """Write tensors and notes; the file appears whole or not at all.

    Raises:
        ResourceError: the disk is full or not writable.
    """
    tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    with writing(path, size) as temporary:
        save_file(tensors, temporary, metadata={**notes, HASH: content_hash(tensors, notes)})


def content_hash(tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> str:
    """Return SHA-256 of tensors and notes, the note of the hash itself left out."""
    digest = hashlib.sha256(json.dumps({k: v for k, v in notes.items() if k != HASH}, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


def packed_triangle(matrix: Tensor) -> Tensor:
    """Return the upper triangle of a symmetric matrix `[n, n]` in a row, row after row, float32: `[n (n + 1) / 2]`."""
    rows, columns = torch.triu_indices(*matrix.shape)
    return matrix.float()[rows, columns].contiguous()


def whole_matrix(upper: Tensor) -> Tensor:
    """Return the symmetric matrix `[n, n]` of a triangle that `packed_triangle` gave.

    Raises:
        DataError: no triangle has so many numbers.
    """
    size = int(((8 * len(upper) + 1) ** 0.5 - 1) / 2)
    if size * (size + 1) // 2 != len(upper):
        raise DataError(f"A packed second moment has {len(upper)} numbers, which is no triangle.")
    matrix = upper.new_zeros(size, size)
    rows, columns = torch.triu_indices(size, size)
    matrix[rows, columns] = upper
    matrix[columns, rows] = upper
    return matrix
