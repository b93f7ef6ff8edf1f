"""A .gguf file whose edited tensor is quantised anew: by the format, with the loss told, and nothing else touched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from factedit.errors import EditError, UsageError
from factedit.export.ship import ship
from factedit.files.gguf_quants import LAYOUTS, encode
from factedit.files.gguf_reader import open_gguf
from factedit.models.load import load
from stack_cases import random_edit
from tiny_gguf import llama_lm, write

OUT = "blk.1.ffn_down.weight"
# ‖values − stored‖ / ‖values‖ of normal numbers that each kind may lose, a little above what its number of bits gives.
LOSS = {
    "Q4_0": 0.1, "Q4_1": 0.085, "Q5_0": 0.05, "Q5_1": 0.045, "Q8_0": 0.006, "IQ4_NL": 0.09, "MXFP4": 0.13,
    "Q4_K": 0.085, "Q5_K": 0.042, "Q6_K": 0.022,
}  # fmt: skip


def values_of(blocks: np.ndarray, kind: str) -> np.ndarray:
    """What blocks stand for, as the gguf package reads them."""
    return dequantize(blocks.reshape(1, -1), Kind[kind]).reshape(len(blocks), -1)


def random_blocks(kind: str, count: int, seed: int = 0) -> np.ndarray:
    """Random bytes whose values are of the size of weights."""
    blocks = np.random.default_rng(seed).integers(0, 256, (count, GGML_QUANT_SIZES[Kind[kind]][1]), dtype=np.uint8)
    scale = np.array([2e-3 if kind.endswith("0") or kind in ("Q4_1", "Q5_1", "IQ4_NL") else 3e-5], dtype=np.float16)
    if kind == "MXFP4":
        blocks[:, 0] = 122
    elif kind == "Q6_K":
        blocks[:, -2:] = scale.view(np.uint8)
    else:
        blocks[:, :2] = scale.view(np.uint8)
        if kind.endswith(("_1", "_K")):
            blocks[:, 2:4] = (-scale * 8 if kind.endswith("_1") else scale).astype(np.float16).view(np.uint8)
    return blocks


@pytest.mark.parametrize("kind", LAYOUTS)
def test_blocks_hold_what_the_kind_can_hold(kind: str) -> None:
    size = GGML_QUANT_SIZES[Kind[kind]][0]
    numbers = (0.05 * np.random.default_rng(1).standard_normal((60, size))).astype(np.float32)
    empty = np.zeros((60, GGML_QUANT_SIZES[Kind[kind]][1]), dtype=np.uint8)
    found = values_of(encode(kind, empty, numbers), kind)
    assert np.linalg.norm(found - numbers) / np.linalg.norm(numbers) < LOSS[kind]
    zero = np.zeros_like(numbers)
    assert np.abs(values_of(encode(kind, empty, zero), kind)).max() < 1e-30


@pytest.mark.parametrize("kind", LAYOUTS)
def test_what_does_not_change_keeps_its_values_and_what_fits_its_scales(kind: str) -> None:
    blocks = random_blocks(kind, 50)
    values = values_of(blocks, kind)
    again = encode(kind, blocks, values)
    assert np.array_equal(values_of(again, kind), values)
    moved = values.copy()
    moved[7] += 1e-3 * np.random.default_rng(2).standard_normal(values.shape[1]).astype(np.float32)
    new = encode(kind, blocks, moved)
    assert np.array_equal(np.delete(new, 7, 0), np.delete(again, 7, 0))
    moved[7] *= 100  # far outside the scales: they are made anew
    found = values_of(encode(kind, blocks, moved), kind)[7]
    assert np.linalg.norm(found - moved[7]) / np.linalg.norm(moved[7]) < 2 * LOSS[kind]


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "MXFP4", "Q4_0", "Q5_1"])
def test_an_edited_tensor_is_quantised_anew_where_asked(kind: str, tmp_path: Path) -> None:
    per_block, size = GGML_QUANT_SIZES[Kind[kind]]
    stored = random_blocks(kind, 32 * 256 // per_block).reshape(32, -1)
    assert stored.shape[1] == 256 // per_block * size
    lm = llama_lm(num_hidden_layers=2, intermediate_size=256)
    path = write(tmp_path / "m.gguf", lm, raw={OUT: (Kind[kind], stored)})
    model = load(str(path))
    edit = random_edit(model, 1, layer=1)
    told = r"stored as \w+, which would round the change.*--store-as F16.*quantise it anew.*\(--requantise\)"
    with pytest.raises(EditError, match=told):
        ship(model, [edit], tmp_path / "out", "gguf", gguf=path)
    [patched] = ship(model, [edit], tmp_path / "out", "gguf", gguf=path, requantise=True).stored
    assert (patched.tensor, patched.was, patched.now) == (OUT, kind, kind)
    before, after = open_gguf(path), open_gguf(tmp_path / "out" / "model.gguf")
    assert len(before.data) == len(after.data)
    same = [n for n in before.tensors if np.array_equal(before.read(n), after.read(n))]
    assert [n for n in before.tensors if n not in same] == [OUT]
    change = (after.read(OUT) - before.read(OUT)).astype(np.float64)
    delta = edit.effects[0].delta().T.double().numpy()
    assert patched.kept == pytest.approx((change * delta).sum() / np.square(delta).sum(), abs=1e-4)
    assert patched.error == pytest.approx(np.linalg.norm(change - delta) / np.linalg.norm(delta), abs=1e-4)
    assert 0.9 < patched.kept < 1.1
    assert patched.error < 4 * LOSS[kind]


def test_one_way_of_storing_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", llama_lm(num_hidden_layers=2))
    model = load(str(path))
    edit = random_edit(model, 1, layer=1)
    with pytest.raises(UsageError, match=r"stored as F16, or quantised anew in their own kind. Name one"):
        ship(model, [edit], tmp_path / "out", "gguf", gguf=path, requantise=True, store_as="F16")
    with pytest.raises(UsageError, match="Quantising anew is for 'gguf'; 'merged' has no kind of its own"):
        ship(model, [edit], tmp_path / "out", "merged", requantise=True)
    [patched] = ship(model, [edit], tmp_path / "out", "gguf", gguf=path, requantise=True).stored
    assert (patched.now, patched.kept) == ("F32", pytest.approx(1))
