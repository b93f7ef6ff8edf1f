"""Read a .gguf file without trusting it: header, metadata, and tensors as float32.

The format (GGUF versions 2 and 3, little endian), in order:
magic `GGUF`, u32 version, u64 number of tensors, u64 number of metadata pairs;
the pairs: key, u32 value type, value (a string is u64 length + UTF-8; an array is u32 type + u64 count + items);
the tensor table: name, u32 dimensions, u64 each (fastest first), u32 storage type, u64 offset;
padding to `general.alignment`; the tensors' bytes.
Every count, length and offset is checked against the bytes that are there before it is used.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from factedit.errors import DataError, ModelError, UnsupportedModel, shown
from factedit.files.gguf_bytes import Buffer, Cursor, broken, read_value

VERSIONS = (2, 3)
MAX_PAIRS, MAX_TENSORS, MAX_DIMENSIONS = 100_000, 1_000_000, 4
MAX_KEY, MAX_ALIGNMENT = 65_535, 1 << 20  # bytes; the format's own limit for keys
_CHUNK = 1 << 19  # numbers dequantised at a time: the temporary arrays stay in the processor's cache
_PIECE = 1 << 24  # bytes that are copied at a time
_FREED_ONCE = 32_000_000  # bytes; see `GgufFile.read`


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies in the file.

    Attributes:
        name: GGUF's name, e.g. `blk.0.attn_q.weight`.
        shape: in numpy's order, slowest dimension first.
        kind: how it is stored, as ggml counts.
        start: of its bytes, from the beginning of the file.
        size: of its bytes.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int
    size: int


@dataclass(frozen=True)
class GgufFile:
    """A checked GGUF file.

    Attributes:
        name: of the file, for messages.
        metadata: the pairs; arrays of numbers are numpy arrays, arrays of strings are lists.
        tensors: by name.
        pairs: the bytes of the metadata pairs, `[begin, end)`.
        data: the whole file.
    """

    name: str
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]
    pairs: tuple[int, int]
    data: Buffer = field(repr=False)

    def metadata_sha256(self) -> str:
        """Return a fingerprint of everything but the tensors."""
        return hashlib.sha256(self.data[slice(*self.pairs)]).hexdigest()

    def without_tensors(self) -> bytes:
        """Return a GGUF file of the same metadata and no tensors."""
        return struct.pack("<4sIQQ", b"GGUF", 3, 0, len(self.metadata)) + self.data[slice(*self.pairs)]

    def pieces(self, begin: int, end: int) -> Iterator[bytes]:
        """Yield the bytes of a part of the file; what was mapped for them is given back to the system."""
        for at in range(begin, end, _PIECE):
            yield self.data[at : min(at + _PIECE, end)]
            if isinstance(self.data, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
                first = at - at % mmap.PAGESIZE
                self.data.madvise(mmap.MADV_DONTNEED, first, min(at + _PIECE, end) - first)

    def read(self, name: str) -> np.ndarray:
        """Return a tensor as a new float32 array, equal to the bit to `gguf.quants.dequantize`.

        Raises:
            UnsupportedModel: the way it is stored cannot be read.
        """
        tensor = self.tensors[name]
        return self.dequantised(tensor, np.frombuffer(self.data, np.uint8, count=tensor.size, offset=tensor.start))

    def dequantised(self, tensor: GgufTensor, raw: np.ndarray) -> np.ndarray:
        """Return a tensor as a new float32 array from its bytes; see `read`.

        Args:
            tensor: of this file.
            raw: its bytes.
        """
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
        from gguf.quants import dequantize

        kind = GGMLQuantizationType(tensor.kind)
        per_block, block_bytes = GGML_QUANT_SIZES[kind]
        numbers = np.empty(tensor.shape, dtype=np.float32)
        # One large block freed makes glibc keep the temporary arrays' memory instead of handing it back to the
        # system and faulting it in again for each chunk: four times faster, and harmless elsewhere.
        np.empty(_FREED_ONCE, dtype=np.uint8)
        flat, step = numbers.reshape(-1), max(1, _CHUNK // per_block)
        blocks = raw.reshape(-1, block_bytes)
        try:
            for begin in range(0, len(blocks), step):
                part = blocks[begin : begin + step]
                flat[begin * per_block : (begin + len(part)) * per_block] = dequantize(part.reshape(1, -1), kind)[0]
        except NotImplementedError as error:
            raise _unreadable(self.name, tensor.name, kind.name) from error
        return numbers


def check_there(path: Path) -> None:
    """Refuse a path at which no file lies.

    Raises:
        ModelError: saying so.
    """
    if not path.is_file():
        raise ModelError(f"There is no file {path}. Give the path of a .gguf file.")


def open_gguf(path: str | Path) -> GgufFile:
    """Open and check a .gguf file; its tensors are mapped, not read.

    Args:
        path: the file.

    Raises:
        ModelError: there is no such file, or it cannot be read.
        DataError: it is not a sound GGUF file; the message says where it breaks.
        UnsupportedModel: a version, byte order or storage type that is not read.
    """
    path = Path(path)
    try:
        check_there(path)
        with path.open("rb") as file:
            if path.stat().st_size < 24:
                raise broken(path.name, f"it has {path.stat().st_size} bytes, and a header takes 24")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ModelError(f"The file {path} cannot be read: {error.strerror or error}.") from error
    return parse_gguf(data, path.name)


def parse_gguf(data: Buffer, name: str) -> GgufFile:
    """Check a GGUF file that is in memory or mapped.

    Args:
        data: the whole file.
        name: of the file, for messages.

    Raises:
        DataError: it is not a sound GGUF file; the message says where it breaks.
        UnsupportedModel: a version, byte order or storage type that is not read.
    """
    cursor = Cursor(data, name)
    tensors, pairs = _header(cursor)
    begin = cursor.at
    metadata = _metadata(cursor, pairs)
    _refuse_part(name, metadata)
    end = cursor.at
    table = [_table_row(cursor) for _ in range(tensors)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise broken(name, f"its alignment is {shown(alignment)}, not a power of two")
    data_start = -(-cursor.at // alignment) * alignment
    by_name: dict[str, GgufTensor] = {}
    for row in table:
        if row[0] in by_name:
            raise broken(name, f"it holds the tensor {shown(row[0])} twice")
        by_name[row[0]] = _stored(name, row, data_start, len(data))
    _refuse_overlap(name, by_name)
    return GgufFile(name, metadata, by_name, (begin, end), data)


def _header(cursor: Cursor) -> tuple[int, int]:
    """[file] -> [number of tensors, number of pairs]."""
    if cursor.left() < 24 or cursor.data[:4] != b"GGUF":
        start = bytes(cursor.data[:4])
        raise DataError(
            f"{cursor.name} is not a GGUF file: it begins with {start!r}, not with b'GGUF'. Give another file, or "
            "download it again (a text file of some lines in its place is a pointer, not the model)."
        )
    cursor.at = 4
    version = cursor.scalar("<I", "the version")
    if version & 0xFFFF == 0:
        raise UnsupportedModel(f"{cursor.name} is a big-endian GGUF file. Get the little-endian one.")
    if version not in VERSIONS:
        raise UnsupportedModel(
            f"{cursor.name} is of GGUF version {version}; versions {' and '.join(map(str, VERSIONS))} are read. "
            "Convert the model again with a current converter."
        )
    tensors, pairs = cursor.scalar("<Q", "the number of tensors"), cursor.scalar("<Q", "the number of pairs")
    for count, most, what in ((tensors, MAX_TENSORS, "tensors"), (pairs, MAX_PAIRS, "metadata pairs")):
        if count > most:
            raise broken(cursor.name, f"its header promises {count:,} {what}, and {most:,} are allowed")
    return tensors, pairs


def _metadata(cursor: Cursor, pairs: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(pairs):
        key = cursor.string("a metadata key", MAX_KEY)
        if key in metadata:
            raise broken(cursor.name, f"it holds the metadata key {shown(key)} twice")
        metadata[key] = read_value(cursor, key)
    return metadata


def _refuse_part(name: str, metadata: dict[str, Any]) -> None:
    """Refuse one part of a model that was split into several files: each alone lacks the others' tensors."""
    count, number = metadata.get("split.count", 0), metadata.get("split.no", 0)
    if isinstance(count, int) and count > 1:
        which = number + 1 if isinstance(number, int) else "?"
        raise UnsupportedModel(
            f"{name} is part {which} of {count} of a split GGUF file. Join the parts with llama.cpp "
            "('llama-gguf-split --merge FIRST-PART JOINED.gguf'), and give the joined file."
        )


def _table_row(cursor: Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """[file] -> [name, shape, kind, offset]."""
    name = cursor.string("a tensor's name", MAX_KEY)
    count = cursor.scalar("<I", f"the shape of {shown(name)}")
    if count > MAX_DIMENSIONS:
        raise broken(
            cursor.name, f"the tensor {shown(name)} has {count:,} dimensions, and {MAX_DIMENSIONS} are allowed"
        )
    shape = [cursor.scalar("<Q", f"the shape of {shown(name)}") for _ in range(count)]
    kind, offset = cursor.scalar("<I", f"the type of {shown(name)}"), cursor.scalar("<Q", f"the place of {shown(name)}")
    return name, tuple(reversed(shape)), kind, offset


def _stored(file: str, row: tuple[str, tuple[int, ...], int, int], data_start: int, end: int) -> GgufTensor:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    name, shape, kind, offset = row
    try:
        per_block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError) as error:
        raise _unreadable(file, name, f"type {kind}") from error
    if not shape or 0 in shape or shape[-1] % per_block:
        raise broken(file, f"the tensor {shown(name)} has the shape {list(shape)}, which its type cannot have")
    size = prod(shape) // per_block * block_bytes
    if data_start + offset + size > end:
        raise broken(
            file,
            f"the tensor {shown(name)} would lie at bytes {data_start + offset:,} to {data_start + offset + size:,}, "
            f"and the file has {end:,}",
        )
    return GgufTensor(name, shape, kind, data_start + offset, size)


def _refuse_overlap(file: str, tensors: dict[str, GgufTensor]) -> None:
    end = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.start):
        if tensor.start < end:
            raise broken(file, f"the tensor {shown(tensor.name)} lies over another one")
        end = tensor.start + tensor.size


def _unreadable(file: str, tensor: str, kind: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"The tensor {shown(tensor)} of {file} is stored as {kind}, which cannot be read. "
        "Use a file stored as F32, F16, BF16, Q8_0 or one of the Q4 to Q6 types."
    )
