"""Tensors of a folder's shards, read by name when they are asked for, and counted; how files are read and watched is in
`file_on_disk.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from factedit.files.checkpoint_weights import StoredTensor
from factedit.files.file_on_disk import FileOnDisk, changed_file

KINDS = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


class OnDisk(Protocol):
    """A model's tensors on disk, by the names of its `state_dict`.

    Attributes:
        bytes_read: so far.
    """

    bytes_read: int

    def __contains__(self, name: str) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...

    def size(self, name: str) -> int:
        """Return the bytes of a tensor as it is stored."""
        ...

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """Return a tensor in a type.

        Raises:
            DataError: its file was changed, cut off or removed since it was opened.
        """
        ...


class _Shard(NamedTuple):
    file: FileOnDisk
    places: Mapping[str, tuple[str, tuple[int, ...], int]]  # kind, shape, first byte


class TensorsOnDisk:
    """Tensors of the shards of a folder, by their names there.

    Args:
        folder: of the shards.
        stored: by the names that they are asked for by: the tensors, as `check_weights` found them.
        names: of these the names in the files.

    Attributes:
        bytes_read: so far.

    Raises:
        DataError: a shard that cannot be opened, or has another header than before.
    """

    def __init__(self, folder: Path, stored: Mapping[str, StoredTensor], names: Mapping[str, str]) -> None:
        self.bytes_read, self._names = 0, dict(names)
        shards = {name: _opened(folder / name) for name in sorted({tensor.file for tensor in stored.values()})}
        self._of = {name: shards[tensor.file] for name, tensor in stored.items()}
        lacking = [in_file for name, in_file in names.items() if in_file not in self._of[name].places]
        if lacking:
            raise changed_file(folder, f"{lacking[0]!r} is no longer there")
        for name, in_file in names.items():
            if self._of[name].places[in_file][:2] != (stored[name].kind, tuple(stored[name].shape)):
                raise changed_file(self._of[name].file.path, f"{in_file!r} is of another shape or type")

    def __contains__(self, name: str) -> bool:
        return name in self._of

    def __iter__(self) -> Iterator[str]:
        return iter(self._of)

    def size(self, name: str) -> int:
        """Return the bytes of a tensor as it is stored."""
        kind, shape, _ = self._of[name].places[self._names[name]]
        return prod(shape) * KINDS[kind].itemsize

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """Return a tensor in a type.

        Raises:
            DataError: its shard was changed, cut off or removed since it was opened.
        """
        shard = self._of[name]
        kind, shape, begin = shard.places[self._names[name]]
        tensor = torch.empty(shape, dtype=KINDS[kind])
        view = tensor.view(-1).view(torch.uint8).numpy().data if tensor.numel() else memoryview(b"")
        shard.file.fill(view, begin)
        self.bytes_read += len(view)
        return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _opened(path: Path) -> _Shard:
    file = FileOnDisk(path)
    try:
        length = int.from_bytes(file.start(8), "little")
        header: dict[str, Any] = json.loads(file.start(length, 8))
        places = {
            name: (row["dtype"], tuple(row["shape"]), 8 + length + row["data_offsets"][0])
            for name, row in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise changed_file(path, "its header cannot be read") from error
    return _Shard(file, places)
