"""A .gguf file is read as the gguf package reads it, or refused with the place where it breaks."""

from __future__ import annotations

import random
import struct

import gguf
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType as Kind

import tiny_gguf
from factedit.errors import DataError, FacteditError, UnsupportedModel
from factedit.files import gguf_reader
from factedit.files.gguf_config import config_of
from factedit.files.gguf_reader import open_gguf, parse_gguf


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
@pytest.mark.parametrize("chunk", [1, 96, 1 << 19])
def test_stored_types_are_read_as_the_gguf_package_reads_them(kind, chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_reader, "_CHUNK", chunk)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    raw = gguf.quants.quantize(np.random.RandomState(0).randn(6, 64).astype(np.float32), Kind[kind])
    writer.add_tensor("a", raw, raw_dtype=Kind[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = open_gguf(tmp_path / "m.gguf").read("a")
    expected = gguf.quants.dequantize(raw, Kind[kind])
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)
    assert len(np.unique(found)) > 5


@pytest.mark.parametrize(
    ("start", "kind", "match"),
    [
        (b"", DataError, "it has 0 bytes, and a header takes 24"),
        (b"version https://git-lfs.github.com/spec/v1\n", DataError, r"begins with b'vers', not with b'GGUF'"),
        (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), UnsupportedModel, "big-endian"),
        (struct.pack("<4sIQQ", b"GGUF", 1, 0, 0), UnsupportedModel, "GGUF version 1; versions 2 and 3 are read"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 1 << 60, 0), DataError, r"promises 1,152,921,504,606,846,976 tensors"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 1 << 60), DataError, r"promises [\d,]+ metadata pairs"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 1), DataError, "would take 8 bytes and 0 are left"),
    ],
)
def test_a_bad_start_is_refused(start, kind, match, tmp_path):
    (tmp_path / "m.gguf").write_bytes(start)
    with pytest.raises(kind, match=match):
        open_gguf(tmp_path / "m.gguf")


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def tensor(name: str, shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


@pytest.mark.parametrize(
    ("pairs", "match"),
    [
        ([struct.pack("<Q", 1 << 40)], r"a metadata key is [\d,]+ bytes long, and 65,535 are allowed"),
        ([text("a") + struct.pack("<IQ", 8, 1 << 50)], r"the value of 'a' would take [\d,]+ bytes"),
        ([text("a") + struct.pack("<I", 77)], "of type 77, which does not exist"),
        ([text("a") + struct.pack("<IIQ", 9, 9, 1)], "an array of type 9, which is not read"),
        ([text("a") + struct.pack("<IIQ", 9, 4, 1 << 61)], r"the [\d,]+ values of 'a' would take"),
        ([text("a") + struct.pack("<IIQ", 9, 8, 1 << 61)], r"the [\d,]+ values of 'a' would take"),
        ([text("a") + struct.pack("<IIQQ", 9, 8, 1, 1 << 61)], "ends in the middle of the 1 values of 'a'"),
        ([text("a") + struct.pack("<IIQQ", 9, 8, 2, 0)], "would take 16 bytes and 8 are left"),
        ([text("a") + struct.pack("<IB", 0, 1)] * 2, "holds the metadata key 'a' twice"),
        ([text("a") + struct.pack("<IQ", 8, 2) + b"\xff\xfe"], "the value of 'a' is not UTF-8"),
        ([text("general.alignment") + struct.pack("<II", 4, 3)], "its alignment is 3, not a power of two"),
        ([text("general.alignment") + struct.pack("<II", 4, 0)], "its alignment is 0"),
        ([text("general.alignment") + struct.pack("<IQ", 8, 1) + b"x"], "its alignment is 'x'"),
    ],
)
def test_bad_metadata_is_refused(pairs, match):
    with pytest.raises(DataError, match=match):
        parse_gguf(struct.pack("<4sIQQ", b"GGUF", 3, 0, len(pairs)) + b"".join(pairs), "m.gguf")


@pytest.mark.parametrize(
    ("rows", "kind", "match"),
    [
        ([tensor("a", (1,) * 5)], DataError, "'a' has 5 dimensions, and 4 are allowed"),
        ([tensor("a", ())], DataError, r"'a' has the shape \[\]"),
        ([tensor("a", (0, 4))], DataError, r"'a' has the shape \[4, 0\]"),
        ([tensor("a", (33,), kind=8)], DataError, r"'a' has the shape \[33\], which its type cannot have"),
        ([tensor("a", (1 << 62, 1 << 62))], DataError, r"'a' would lie at bytes .* and the file has 512"),
        ([tensor("a", offset=1 << 63)], DataError, "would lie at bytes"),
        ([tensor("a", kind=999)], UnsupportedModel, "'a' of m.gguf is stored as type 999, which cannot be read"),
        ([tensor("a"), tensor("a", offset=128)], DataError, "holds the tensor 'a' twice"),
        ([tensor("a"), tensor("b", offset=64)], DataError, "'b' lies over another one"),
    ],
)
def test_a_bad_tensor_table_is_refused(rows, kind, match):
    data = struct.pack("<4sIQQ", b"GGUF", 3, len(rows), 0) + b"".join(rows)
    with pytest.raises(kind, match=match):
        parse_gguf(data.ljust(512, b"\0"), "m.gguf")


def test_a_type_that_the_gguf_package_cannot_dequantise_is_refused():
    data = struct.pack("<4sIQQ", b"GGUF", 3, 1, 0) + tensor("a", kind=int(Kind.I32))
    file = parse_gguf(data.ljust(512, b"\0"), "m.gguf")
    with pytest.raises(UnsupportedModel, match="stored as I32, which cannot be read"):
        file.read("a")


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    data = tiny_gguf.write(tmp_path / "m.gguf", tiny_gguf.llama_lm(num_hidden_layers=1)).read_bytes()
    parse_gguf(data, "whole.gguf")
    end_of_table = max(part.start for part in parse_gguf(data, "whole.gguf").tensors.values())
    for length in [*range(0, end_of_table, 97), len(data) - 1]:
        with pytest.raises(DataError):
            parse_gguf(data[:length], "cut.gguf")


def test_no_damage_of_the_header_escapes_our_errors(tmp_path):
    path = tiny_gguf.write(tmp_path / "m.gguf", tiny_gguf.llama_lm(num_hidden_layers=1))
    whole, chance = path.read_bytes(), random.Random(0)
    header = min(part.start for part in parse_gguf(whole, "m").tensors.values())
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 4, 16))):
            data[chance.randrange(header)] = chance.choice((0, 1, 127, 255, chance.randrange(256)))
        try:
            config_of(parse_gguf(bytes(data), "m"))
        except FacteditError:
            refused += 1
    assert refused > 100
