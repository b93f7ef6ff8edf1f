"""Tensors of a folder's shards, read by name when they are asked for, and counted.

Files are read, not mapped: a mapped file that somebody cuts short ends the process with a signal, and its pages count
as the process's own memory until they are given back. What a shard was when it was opened (size, time of change, file)
is looked at before every reading, so that one that was changed, cut or removed meanwhile is one error
(docs/decisions/0028-larger-than-memory.md).
"""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from factedit.errors import DataError
from factedit.files.checkpoint_weights import StoredTensor

KINDS = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
AT_ONCE = 1 << 26  # bytes of one reading


@dataclass(frozen=True)
class _Shard:
    path: Path
    descriptor: int
    was: tuple[int, int, int]
    places: Mapping[str, tuple[str, tuple[int, ...], int]]  # kind, shape, first byte


class TensorsOnDisk:
    """Tensors of the shards of a folder, by their names there.

    Args:
        folder: of the shards.
        stored: by the names that they are asked for by: the tensors, as `check_weights` found them.
        names: of these the names in the files.

    Attributes:
        bytes_read: so far.
        close: closes the files; called when nobody has the tensors any more.

    Raises:
        DataError: a shard that cannot be opened, or has another header than before.
    """

    def __init__(self, folder: Path, stored: Mapping[str, StoredTensor], names: Mapping[str, str]) -> None:
        self.bytes_read, self._names = 0, dict(names)
        shards: dict[str, _Shard] = {}
        self.close = weakref.finalize(self, _close, shards)  # closes the files; done at the latest when this is gone
        for name in sorted({tensor.file for tensor in stored.values()}):
            shards[name] = _opened(folder / name)
        self._of = {name: shards[tensor.file] for name, tensor in stored.items()}
        lacking = [own for name, own in names.items() if own not in self._of[name].places]
        if lacking:
            raise _changed(folder, f"{lacking[0]!r} is no longer there")

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
        if _state(shard) != shard.was:
            raise _changed(shard.path, "its size, time or file is another")
        found = torch.empty(shape, dtype=KINDS[kind])
        if found.numel():
            view = found.view(-1).view(torch.uint8).numpy().data
            _fill(shard, view, begin)
            self.bytes_read += len(view)
        return found.to(dtype) if found.is_floating_point() else found


def _close(shards: Mapping[str, _Shard]) -> None:
    for shard in shards.values():
        os.close(shard.descriptor)


def _opened(path: Path) -> _Shard:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"The weights {path} cannot be read: {error.strerror}. Get the model again.") from error
    status = os.fstat(descriptor)
    try:
        length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
        header: dict[str, Any] = json.loads(os.pread(descriptor, length, 8))
        places = {
            name: (row["dtype"], tuple(row["shape"]), 8 + length + row["data_offsets"][0])
            for name, row in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        os.close(descriptor)
        raise _changed(path, "its header cannot be read") from error
    return _Shard(path, descriptor, (status.st_size, status.st_mtime_ns, status.st_ino), places)


def _state(shard: _Shard) -> tuple[int, int, int]:
    try:
        status = shard.path.stat()  # of the name: a file put in its place is another
    except OSError as error:
        raise _changed(shard.path, "it is gone") from error
    return status.st_size, status.st_mtime_ns, status.st_ino


def _fill(shard: _Shard, view: memoryview, begin: int) -> None:
    done = 0
    while done < len(view):
        try:
            count = os.preadv(shard.descriptor, [view[done : done + AT_ONCE]], begin + done)
        except OSError as error:
            raise _changed(shard.path, f"it cannot be read: {error.strerror}") from error
        if not count:
            raise _changed(shard.path, "it ends too early")
        done += count


def _changed(path: Path, why: str) -> DataError:
    return DataError(
        f"The weights {path} were changed while the model was read from them ({why}). What was stored so far is kept. "
        "Put the file back, or get the model again, and repeat the command."
    )
