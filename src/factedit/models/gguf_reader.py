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
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from factedit.errors import DataError, ModelError, UnsupportedModel

Buffer = bytes | mmap.mmap

VERSIONS = (2, 3)
MAX_PAIRS, MAX_TENSORS, MAX_DIMENSIONS = 100_000, 1_000_000, 4
MAX_KEY, MAX_ALIGNMENT = 65_535, 1 << 20  # bytes; the format's own limit for keys
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_CHUNK = 1 << 19  # numbers dequantised at a time: the temporary arrays stay in the processor's cache
_FREED_ONCE = 32_000_000  # bytes; see `GgufFile.read`
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class StoredTensor:
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
    tensors: dict[str, StoredTensor]
    pairs: tuple[int, int]
    data: Buffer = field(repr=False)

    def metadata_sha256(self) -> str:
        """A fingerprint of everything but the tensors."""
        return hashlib.sha256(self.data[slice(*self.pairs)]).hexdigest()

    def without_tensors(self) -> bytes:
        """A GGUF file of the same metadata and no tensors."""
        return struct.pack("<4sIQQ", b"GGUF", 3, 0, len(self.metadata)) + self.data[slice(*self.pairs)]

    def read(self, name: str) -> np.ndarray:
        """A tensor as a new float32 array, equal to the bit to `gguf.quants.dequantize`.

        Raises:
            UnsupportedModel: the way it is stored cannot be read.
        """
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
        from gguf.quants import dequantize

        tensor = self.tensors[name]
        kind = GGMLQuantizationType(tensor.kind)
        per_block, block_bytes = GGML_QUANT_SIZES[kind]
        numbers = np.empty(tensor.shape, dtype=np.float32)
        # One large block freed makes glibc keep the temporary arrays' memory instead of handing it back to the
        # system and faulting it in again for each chunk: four times faster, and harmless elsewhere.
        np.empty(_FREED_ONCE, dtype=np.uint8)
        flat, step = numbers.reshape(-1), max(1, _CHUNK // per_block)
        raw = np.frombuffer(self.data, dtype=np.uint8, count=tensor.size, offset=tensor.start)
        blocks = raw.reshape(-1, block_bytes)
        try:
            for begin in range(0, len(blocks), step):
                part = blocks[begin : begin + step]
                flat[begin * per_block : (begin + len(part)) * per_block] = dequantize(part.reshape(1, -1), kind)[0]
        except NotImplementedError as error:
            raise _unreadable(self.name, tensor.name, kind.name) from error
        return numbers


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
        if not path.is_file():
            raise ModelError(f"There is no file {path}. Give the path of a .gguf file.")
        with path.open("rb") as file:
            if path.stat().st_size < 24:
                raise _broken(path.name, f"it has {path.stat().st_size} bytes, and a header takes 24")
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
    cursor = _Cursor(data, name)
    tensors, pairs = _header(cursor)
    begin = cursor.at
    metadata = _metadata(cursor, pairs)
    end = cursor.at
    table = [_table_row(cursor) for _ in range(tensors)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise _broken(name, f"its alignment is {alignment!r}, not a power of two")
    data_start = -(-cursor.at // alignment) * alignment
    found: dict[str, StoredTensor] = {}
    for row in table:
        if row[0] in found:
            raise _broken(name, f"it holds the tensor {row[0]!r} twice")
        found[row[0]] = _stored(name, row, data_start, len(data))
    return GgufFile(name, metadata, found, (begin, end), data)


class _Cursor:
    """A position in the file that only moves over bytes that are there."""

    def __init__(self, data: Buffer, name: str) -> None:
        self.data, self.name, self.at = data, name, 0

    def left(self) -> int:
        return len(self.data) - self.at

    def scalar(self, form: str, what: str) -> Any:
        size = struct.calcsize(form)
        self.need(size, what)
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += size
        return value

    def need(self, size: int, what: str) -> None:
        if size > self.left():
            raise _broken(
                self.name, f"at byte {self.at:,}, {what} would take {size:,} bytes and {self.left():,} are left"
            )

    def string(self, what: str, most: int | None = None) -> str:
        length = self.scalar("<Q", what)
        if most is not None and length > most:
            raise _broken(self.name, f"at byte {self.at:,}, {what} is {length:,} bytes long, and {most:,} are allowed")
        self.need(length, what)
        raw = self.data[self.at : self.at + length]
        self.at += length
        return _text(self.name, raw, what)


def _header(cursor: _Cursor) -> tuple[int, int]:
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
            raise _broken(cursor.name, f"its header promises {count:,} {what}, and {most:,} are allowed")
    return tensors, pairs


def _metadata(cursor: _Cursor, pairs: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(pairs):
        key = cursor.string("a metadata key", MAX_KEY)
        if key in metadata:
            raise _broken(cursor.name, f"it holds the metadata key {key!r} twice")
        metadata[key] = _value(cursor, key)
    return metadata


def _value(cursor: _Cursor, key: str) -> Any:
    kind = cursor.scalar("<I", f"the type of {key!r}")
    if kind in _SCALARS:
        return cursor.scalar(_SCALARS[kind], f"the value of {key!r}")
    if kind == _STRING:
        return cursor.string(f"the value of {key!r}")
    if kind != _ARRAY:
        raise _broken(cursor.name, f"the value of {key!r} is of type {kind}, which does not exist")
    item, count = cursor.scalar("<I", f"the type of {key!r}"), cursor.scalar("<Q", f"the count of {key!r}")
    what = f"the {count:,} values of {key!r}"
    if item == _STRING:
        return _strings(cursor, count, what)
    if item not in _SCALARS:
        raise _broken(cursor.name, f"{key!r} is an array of type {item}, which is not read")
    dtype = np.dtype(_SCALARS[item])
    cursor.need(count * dtype.itemsize, what)
    values = np.frombuffer(cursor.data, dtype=dtype, count=count, offset=cursor.at)
    cursor.at += count * dtype.itemsize
    return values


def _strings(cursor: _Cursor, count: int, what: str) -> list[str]:
    cursor.need(8 * count, what)
    data, at, end, unpack = cursor.data, cursor.at, len(cursor.data), _LENGTH.unpack_from
    values = []
    for _ in range(count):
        if at + 8 > end:
            break
        begin = at + 8
        at = begin + unpack(data, at)[0]
        if at > end:
            break
        values.append(data[begin:at])
    if len(values) < count:
        raise _broken(cursor.name, f"it ends in the middle of {what}")
    cursor.at = at
    return [_text(cursor.name, value, what) for value in values]


def _table_row(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """[file] -> [name, shape, kind, offset]."""
    name = cursor.string("a tensor's name", MAX_KEY)
    count = cursor.scalar("<I", f"the shape of {name!r}")
    if count > MAX_DIMENSIONS:
        raise _broken(cursor.name, f"the tensor {name!r} has {count:,} dimensions, and {MAX_DIMENSIONS} are allowed")
    shape = [cursor.scalar("<Q", f"the shape of {name!r}") for _ in range(count)]
    kind, offset = cursor.scalar("<I", f"the type of {name!r}"), cursor.scalar("<Q", f"the place of {name!r}")
    return name, tuple(reversed(shape)), kind, offset


def _stored(file: str, row: tuple[str, tuple[int, ...], int, int], data_start: int, end: int) -> StoredTensor:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    name, shape, kind, offset = row
    if kind not in set(GGMLQuantizationType):
        raise _unreadable(file, name, f"type {kind}")
    per_block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    if not shape or 0 in shape or shape[-1] % per_block:
        raise _broken(file, f"the tensor {name!r} has the shape {list(shape)}, which its type cannot have")
    size = prod(shape) // per_block * block_bytes
    if data_start + offset + size > end:
        raise _broken(
            file,
            f"the tensor {name!r} would lie at bytes {data_start + offset:,} to {data_start + offset + size:,}, "
            f"and the file has {end:,}",
        )
    return StoredTensor(name, shape, kind, data_start + offset, size)


def _text(file: str, raw: bytes, what: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _broken(file, f"{what} is not UTF-8 text") from error


def _broken(file: str, found: str) -> DataError:
    return DataError(f"{file} is not a sound GGUF file: {found}. Download or convert it again.")


def _unreadable(file: str, tensor: str, kind: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"The tensor {tensor!r} of {file} is stored as {kind}, which cannot be read. "
        "Use a file stored as F32, F16, BF16, Q8_0 or one of the Q4 to Q6 types."
    )
