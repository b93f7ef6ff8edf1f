"""A position in the bytes of a .gguf file that only moves over bytes that are there.

Values as `gguf_reader.py` describes them: numbers, UTF-8 strings, and arrays of either.
"""

from __future__ import annotations

import mmap
import struct
from typing import Any

import numpy as np

from factedit.errors import DataError, shown

Buffer = bytes | mmap.mmap

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")


class Cursor:
    """A position in the bytes; `name` is the file's, and `what` the thing being read, for messages."""

    def __init__(self, data: Buffer, name: str) -> None:
        self.data, self.name, self.at = data, name, 0

    def left(self) -> int:
        """Return how many bytes follow."""
        return len(self.data) - self.at

    def scalar(self, form: str, what: str) -> Any:
        """Return the number at the cursor, in `struct`'s notation."""
        size = struct.calcsize(form)
        self.need(size, what)
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += size
        return value

    def need(self, size: int, what: str) -> None:
        """Refuse to read more bytes than there are."""
        if size > self.left():
            raise broken(
                self.name, f"at byte {self.at:,}, {what} would take {size:,} bytes and {self.left():,} are left"
            )

    def string(self, what: str, most: int | None = None) -> str:
        """Return the text at the cursor, of at most so many bytes."""
        length = self.scalar("<Q", what)
        if most is not None and length > most:
            raise broken(self.name, f"at byte {self.at:,}, {what} is {length:,} bytes long, and {most:,} are allowed")
        self.need(length, what)
        raw = self.data[self.at : self.at + length]
        self.at += length
        return _text(self.name, raw, what)


def read_value(cursor: Cursor, key: str) -> Any:
    """Return the typed value at the cursor: a number, a string, a numpy array, or a list of strings.

    Args:
        cursor: moved behind the value.
        key: whose value it is, for messages.

    Raises:
        DataError: it does not fit into the file, or its type does not exist.
    """
    kind = cursor.scalar("<I", f"the type of {shown(key)}")
    if kind in SCALARS:
        return cursor.scalar(SCALARS[kind], f"the value of {shown(key)}")
    if kind == STRING:
        return cursor.string(f"the value of {shown(key)}")
    if kind != ARRAY:
        raise broken(cursor.name, f"the value of {shown(key)} is of type {kind}, which does not exist")
    item, count = cursor.scalar("<I", f"the type of {shown(key)}"), cursor.scalar("<Q", f"the count of {shown(key)}")
    what = f"the {count:,} values of {shown(key)}"
    if item == STRING:
        return _strings(cursor, count, what)
    if item not in SCALARS:
        raise broken(cursor.name, f"{shown(key)} is an array of type {item}, which is not read")
    dtype = np.dtype(SCALARS[item])
    cursor.need(count * dtype.itemsize, what)
    if not count:
        return np.empty(0, dtype=dtype)
    values = np.frombuffer(cursor.data, dtype=dtype, count=count, offset=cursor.at)
    cursor.at += count * dtype.itemsize
    return values


def _strings(cursor: Cursor, count: int, what: str) -> list[str]:
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
        raise broken(cursor.name, f"it ends in the middle of {what}")
    cursor.at = at
    return [_text(cursor.name, value, what) for value in values]


def _text(file: str, raw: bytes, what: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise broken(file, f"{what} is not UTF-8 text") from error


def broken(file: str, fault: str) -> DataError:
    """Return the error for a file that is not what it should be."""
    return DataError(f"{file} is not a sound GGUF file: {fault}. Download or convert it again.")
