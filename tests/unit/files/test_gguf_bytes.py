"""Values of a .gguf file, written by hand byte for byte, and everything that does not fit."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from factedit.errors import DataError
from factedit.files.gguf_bytes import ARRAY, SCALARS, STRING, Cursor, read_value


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def cursor(data: bytes) -> Cursor:
    return Cursor(data, "model.gguf")


@pytest.mark.parametrize(
    ("kind", "form", "value"),
    [(0, "<B", 200), (1, "<b", -3), (2, "<H", 60_000), (3, "<h", -300), (4, "<I", 1 << 31), (5, "<i", -5),
     (6, "<f", 0.5), (7, "<?", True), (10, "<Q", 1 << 40), (11, "<q", -(1 << 40)), (12, "<d", 1e-30)],
)  # fmt: skip
def test_a_number_of_every_type(kind: int, form: str, value: float) -> None:
    found = cursor(struct.pack("<I", kind) + struct.pack(form, value) + b"rest")
    assert read_value(found, "key") == value
    assert found.left() == 4
    array = struct.pack("<IIQ", ARRAY, kind, 3) + 3 * struct.pack(form, value)
    np.testing.assert_array_equal(read_value(cursor(array), "key"), np.array([value] * 3, dtype=form))
    assert SCALARS[kind] == form


def test_texts_and_lists_of_texts() -> None:
    assert read_value(cursor(struct.pack("<I", STRING) + text("Zürich 東京")), "key") == "Zürich 東京"
    several = struct.pack("<IIQ", ARRAY, STRING, 3) + text("a") + text("") + text("é")
    found = cursor(several + b"!")
    assert read_value(found, "key") == ["a", "", "é"]
    assert found.left() == 1
    assert list(read_value(cursor(struct.pack("<IIQ", ARRAY, 4, 0)), "key")) == []


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"\x04\x00", "the type of 'key' would take 4 bytes and 2 are left"),
        (struct.pack("<I", 99), "of type 99, which does not exist"),
        (struct.pack("<I", 4) + b"\x01", "the value of 'key' would take 4 bytes and 1 are left"),
        (struct.pack("<IQ", STRING, 1 << 60) + b"abc", "and 3 are left"),
        (struct.pack("<I", STRING) + struct.pack("<Q", 2) + b"\xff\xfe", "is not UTF-8 text"),
        (struct.pack("<IIQ", ARRAY, ARRAY, 1), "an array of type 9, which is not read"),
        (struct.pack("<IIQ", ARRAY, 4, 1 << 62), "values of 'key' would take"),
        (struct.pack("<IIQ", ARRAY, STRING, 1 << 61), "values of 'key' would take"),
        (struct.pack("<IIQ", ARRAY, STRING, 2) + text("first") + struct.pack("<Q", 50), "ends in the middle"),
        (struct.pack("<IIQ", ARRAY, STRING, 1) + struct.pack("<Q", 1 << 63), "ends in the middle"),
    ],
)
def test_what_does_not_fit_is_refused_by_name_and_byte(data: bytes, match: str) -> None:
    with pytest.raises(DataError, match=match) as error:
        read_value(cursor(data), "key")
    assert str(error.value).startswith("model.gguf is not a sound GGUF file")
    assert str(error.value).endswith("Download or convert it again.")


def test_a_text_may_be_bounded() -> None:
    assert cursor(text("four")).string("a name", most=4) == "four"
    with pytest.raises(DataError, match="a name is 5 bytes long, and 4 are allowed"):
        cursor(text("fives")).string("a name", most=4)
