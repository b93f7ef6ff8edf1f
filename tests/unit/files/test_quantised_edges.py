"""Quantised weights at odd shapes, and damaged ones: read as the formats say, or refused in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from factedit.errors import FacteditError, ModelError, UnsupportedModel
from factedit.files.checkpoint_weights import check_safetensors
from factedit.files.quantised.bits import (
    E2M1,
    exponents,
    halves,
    join_halves,
    nearer,
    nearest,
    pack,
    powers,
    unpack,
)
from factedit.files.quantised.kind import spared, whole_number, wider
from factedit.files.quantised.table import Quantised, kind_of, quantised, settings_of
from quantised_cases import CASES, E2M1_ALL, NF4, gptq, grouped, words, worth

Tensors = dict[str, torch.Tensor]
WEIGHT = 0.05 * torch.randn(32, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quantised")


def opened(place: Path, tensors: Tensors, said: Any, **config: Any) -> Quantised | None:
    """The quantised weights of a folder with these tensors."""
    save_file({name: own.contiguous() for name, own in tensors.items()}, place / "model.safetensors")
    stored = check_safetensors(place / "model.safetensors")
    return quantised(place, {"model_type": "llama", "quantization_config": said, **config}, stored, "It")


def read(place: Path, tensors: Tensors, said: Any) -> torch.Tensor:
    """The values of its one weight."""
    found = opened(place, tensors, said)
    assert found is not None
    return found.weights(torch.float32)["m.weight"]


def stored(case: str, weight: torch.Tensor = WEIGHT) -> tuple[Tensors, torch.Tensor, dict[str, Any]]:
    """One matrix `m` as a kind stores it, its values, and the settings."""
    made, said = CASES[case]
    tensors, values = made(weight)
    return {f"m.{end}": own for end, own in tensors.items()}, values, said


# -- odd shapes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("shape", [(32, 96), (64, 32), (96, 160)])
def test_gptq_of_every_width_in_matrices_of_other_shapes(bits: int, shape: tuple[int, int], place: Path) -> None:
    """The last word of a row of three-bit numbers is shared by two of them."""
    weight = 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(bits))
    tensors, values = gptq(weight, bits)
    said = {"quant_method": "gptq", "bits": bits, "group_size": 16}
    found = read(place, {f"m.{end}": own for end, own in tensors.items()}, said)
    assert torch.equal(found, values)
    without = {f"m.{end}": own for end, own in tensors.items() if end != "g_idx"}
    assert torch.equal(read(place, without, said), values), "groups one behind the other need no list"


def test_gptq_with_one_group_for_all_columns(place: Path) -> None:
    q, scales, zeros = grouped(WEIGHT, 4, 64)
    tensors = {
        "m.qweight": words(q, 4).T.contiguous(), "m.qzeros": words((zeros.T - 1) % 16, 4),
        "m.scales": torch.from_numpy(scales.T.copy()),
    }  # fmt: skip
    for size in (-1, 64, 0):
        said = {"quant_method": "gptq", "bits": 4, "group_size": size}
        assert torch.equal(read(place, tensors, said), worth(q, scales, zeros, 64))


@pytest.mark.parametrize("shape", [(24, 24), (32, 64), (25, 47), (7, 100), (1, 1)])
def test_fp8_blocks_at_the_edges_are_smaller(shape: tuple[int, int], place: Path) -> None:
    rows, columns = (-(-size // 24) for size in shape)
    scales = torch.rand(rows, columns, generator=torch.Generator().manual_seed(2)) + 0.5
    q = torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(torch.float8_e4m3fn)
    said = {"quant_method": "fp8", "weight_block_size": [24, 24]}
    found = read(place, {"m.weight": q, "m.weight_scale_inv": scales}, said)
    by_hand = np.array([[float(q[i, j].float() * scales[i // 24, j // 24]) for j in range(shape[1])]
                        for i in range(shape[0])], dtype=np.float32)  # fmt: skip
    assert np.array_equal(found.numpy(), by_hand)


def test_gptq_zeros_of_zero_are_stored_as_the_largest_number(place: Path) -> None:
    """z − 1 of z = 0 is −1, which is all ones; with it W = scale · q."""
    tensors = {
        "m.qweight": torch.tensor([[0x76543210]] * 8).T.contiguous().int(), "m.scales": torch.full((1, 8), 0.5).half(),
        "m.qzeros": torch.full((1, 1), -1).int(),
    }  # fmt: skip
    found = read(place, tensors, {"quant_method": "gptq", "bits": 4, "group_size": -1})
    assert found.tolist() == [[n / 2 for n in range(8)]] * 8


def test_fp8_blocks_that_no_setting_names_share_the_matrix_evenly(place: Path) -> None:
    """25 rows in two blocks are 13 and 12, 47 columns in two are 24 and 23."""
    scales = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    ones = torch.ones(25, 47).to(torch.float8_e5m2)
    found = read(place, {"m.weight": ones, "m.weight_scale": scales}, {"quant_method": "fp8"})
    expected = torch.ones(25, 47)
    expected[:, 24:] *= 2
    expected[13:] *= 4
    assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", [(3, 5), (1, 7), (64, 1), (9, 15)])
def test_four_bits_of_an_odd_count_leave_half_a_byte_and_a_short_block(shape: tuple[int, int], place: Path) -> None:
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(3)).flatten()
    table, count = np.array(NF4, dtype=np.float32), weight.numel()
    most = np.array([float(weight[n : n + 8].abs().max()) for n in range(0, count, 8)], dtype=np.float32)
    q = [int(np.abs(table - float(weight[n]) / most[n // 8]).argmin()) for n in range(count)]
    values = np.array([table[q[n]] * most[n // 8] for n in range(count)], dtype=np.float32).reshape(shape)
    pairs = [*q, 0][: count + count % 2]
    state = json.dumps({"quant_type": "nf4", "blocksize": 8, "dtype": "float32", "shape": shape}).encode()
    tensors = {
        "m.weight": torch.tensor([[16 * a + b] for a, b in zip(pairs[::2], pairs[1::2], strict=True)]).to(torch.uint8),
        "m.weight.absmax": torch.from_numpy(most), "m.weight.quant_map": torch.from_numpy(table),
        "m.weight.quant_state.bitsandbytes__nf4": torch.tensor(list(state), dtype=torch.uint8),
    }  # fmt: skip
    said = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    found = opened(place, tensors, said)
    assert found is not None
    [packed] = found.packed.values()
    parts = found.parts(packed)
    assert np.array_equal(found.values(packed, parts).numpy(), values)
    again = found.kind.write(packed, parts, torch.from_numpy(values))
    assert all(torch.equal(again[role], own) for role, own in parts.items())


def test_a_matrix_of_zeros_stays_one_and_can_be_written_into(place: Path) -> None:
    """A block of zeros has the scale zero in some formats, by which nothing can be divided."""
    for case in ("bitsandbytes-nf4", "bitsandbytes-int8", "compressed-int8", "compressed-int4-symmetric"):
        tensors, values, said = stored(case)
        ends = {"bitsandbytes-nf4": "weight.absmax", "bitsandbytes-int8": "SCB"}
        name = f"m.{ends.get(case, 'weight_scale')}"
        found = opened(place, {**tensors, name: torch.zeros_like(tensors[name])}, said)
        assert found is not None, case
        [packed] = found.packed.values()
        parts = found.parts(packed)
        assert not found.values(packed, parts).any(), case
        new = found.values(packed, found.kind.write(packed, parts, values))
        assert float((new - values).norm() / values.norm()) < 0.2, case


# -- numbers of few bits ---------------------------------------------------------------------------


def test_every_byte_is_two_numbers_and_back() -> None:
    every = torch.arange(256, dtype=torch.uint8).view(16, 16)
    for high_first in (False, True):
        found = halves(every, high_first=high_first)
        first = found.view(16, 16, 2)[..., 0].int()
        assert torch.equal(first, (every // 16 if high_first else every % 16).int())
        assert torch.equal(join_halves(found, high_first=high_first), every)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [1, 31, 32, 33, 100])
def test_all_ones_and_all_zeros_fill_words_of_any_count(bits: int, count: int) -> None:
    for value in (0, 2**bits - 1):
        packed = pack(torch.full((2, count), value), bits)
        assert packed.shape == (2, -(-count * bits // 32))
        whole = sum((int(word) & 0xFFFFFFFF) << (32 * n) for n, word in enumerate(packed[0]))
        assert whole == sum(value << (bits * n) for n in range(count)), "what is left of the last word is zero"
        assert torch.equal(unpack(packed, bits, count), torch.full((2, count), value, dtype=torch.int32))


def test_the_nearest_value_is_found_and_a_zero_keeps_its_sign() -> None:
    codes = torch.tensor(E2M1)
    values = torch.linspace(-7, 7, 281)
    found = nearest(values, codes, torch.zeros(281, dtype=torch.uint8))
    best = torch.tensor([min(abs(float(value) - code) for code in E2M1_ALL) for value in values])
    torch.testing.assert_close((codes[found.long()] - values).abs(), best)
    minus = torch.full((1,), 8, dtype=torch.uint8)
    assert nearest(torch.zeros(1), codes, minus).tolist() == [8], "8 is −0.0, which says zero as 0 does"


def test_powers_of_two_and_the_smallest_not_below() -> None:
    raw = torch.tensor([0, 1, 126, 127, 128, 254, 255], dtype=torch.uint8)
    assert powers(raw)[:6].tolist() == [2.0**-127, 2.0**-126, 0.5, 1.0, 2.0, 2.0**127]
    assert bool(powers(raw)[6].isnan())
    least = torch.tensor([0.0, 0.5, 0.51, 1.0, 1.0001, 3.0, 1e38])
    assert exponents(least).tolist() == [0, 126, 127, 127, 128, 129, 254]
    assert bool((powers(exponents(least)) >= least)[:-1].all())


def test_a_scale_twice_as_large_is_taken_only_where_it_comes_nearer() -> None:
    """The first block fits into the kept scale but for one number, the second is far outside."""
    blocks = torch.tensor([[6.2, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], [12.0, 8.0, 8.0, 8.0, 4.0, 4.0, 4.0, 4.0]])
    numbers, larger = nearer(blocks, torch.zeros(2, 8), torch.ones(2), 2 * torch.ones(2))
    assert larger.tolist() == [False, True]
    codes = torch.tensor(E2M1)[numbers.long()] * torch.tensor([[1.0], [2.0]])
    assert codes.tolist() == [[6, *[0.5] * 7], [12, 8, 8, 8, 4, 4, 4, 4]]


def test_scales_grow_in_their_own_type_and_never_shrink_or_vanish() -> None:
    scales = torch.tensor([1.0, 2.0, 0.0]).half()
    found = wider(scales, torch.tensor([0.5, 3.0, 0.0]))
    assert (found.dtype, found.tolist()) == (torch.float16, [1.0, 3.0, 0.0])
    assert wider(scales, torch.full((3,), 1e9)).tolist() == [65504.0] * 3
    assert float(wider(torch.zeros(1).half(), torch.full((1,), 1e-12))) == torch.finfo(torch.float16).tiny


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_settings_are_found_in_a_model_and_in_the_text_model_of_a_wrapper(key: str) -> None:
    said = {"quant_method": "fp8"}
    for config in ({key: said}, {"text_config": {key: said}}, {"text_config": None, key: said}):
        assert settings_of(config) == said
    assert settings_of({key: "fp8"}) == {"quant_method": "fp8"}
    for nothing in ({}, {key: None}, {key: {}}, {"text_config": [said]}):
        assert settings_of(nothing) is None


def test_a_kind_without_a_name_is_compressed_tensors_where_it_has_groups() -> None:
    assert kind_of({"config_groups": {}}, "It").name == "compressed-tensors"
    for said, named in (({}, "an unnamed method"), ({"quant_method": 3}, "3"), ({"quant_method": ["awq"]}, "awq")):
        with pytest.raises(
            UnsupportedModel, match=f"The weights of It are quantised by .*{named}.*, which is not read"
        ):
            kind_of(said, "It")


@pytest.mark.parametrize("value", ["4", 4.0, None, True, [4]])
def test_a_number_is_a_whole_one(value: Any) -> None:
    with pytest.raises(ModelError, match=r"gives bits = .*, not a whole number"):
        whole_number({"bits": value}, "bits")
    assert whole_number({}, "bits", 7) == whole_number({"bits": 7}, "bits") == 7


def test_modules_left_out_join_those_that_were() -> None:
    spare = spared("ignore")
    assert spare({"a": 1, "ignore": ["lm_head"]}, ["m", "lm_head"], ["other"]) == {"a": 1, "ignore": ["lm_head", "m"]}
    assert spare({}, ["m"], ["other", "lm_head"])["ignore"] == ["lm_head", "other", "m"], "what loaders leave out too"
    rules = kind_of({"quant_method": "gptq"}, "It").spare
    assert rules is not None
    found = rules({"dynamic": {"+:.*": {"bits": 8}}}, ["a.b"], [])
    assert found["dynamic"] == {"-:^a\\.b$": {}, "+:.*": {"bits": 8}}
    assert next(iter(found["dynamic"])).startswith("-"), "the first rule that fits is taken"


# -- damage ----------------------------------------------------------------------------------------


def _cut(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[:-1]


def _row(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten()


def _narrow(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[..., :1]


def _twice(tensor: torch.Tensor) -> torch.Tensor:
    return torch.cat([tensor, tensor], -1)


Damage = Callable[[torch.Tensor], torch.Tensor]
MISFITS: list[tuple[str, str, Damage, str]] = [
    ("gptq-4", "qweight", _row, "'m.qweight' is I32 [256], and not a matrix of whole numbers of 32 bits"),
    ("gptq-4", "qweight", torch.Tensor.float, "'m.qweight' is F32 [8, 32], and not a matrix of whole"),
    ("gptq-4", "qzeros", _twice, "'m.qzeros' is I32 [4, 8], and not the zeros of 32 columns"),
    ("gptq-4", "scales", _narrow, "'m.scales' is F16 [4, 1], and not [4, 32]"),
    ("gptq-4", "scales", _cut, "'m.scales' is F16 [3, 32], and not [4, 32]"),
    ("gptq-4", "g_idx", _narrow, "'m.g_idx' is I32 [1], and not [64]"),
    ("gptq-ordered", "g_idx", torch.neg, "do not fit together as gptq stores them (g_idx holds a group below 0"),
    ("awq", "scales", _cut, "and not scales of the 4 groups of its zeros, in 64 rows"),
    ("awq", "qzeros", _cut, "and not scales of the 3 groups of its zeros"),
    ("awq", "qzeros", _twice, "and not scales of the 4 groups of its zeros"),
    ("awq", "qweight", _row, "and not a matrix of whole numbers of 32 bits"),
    ("bitsandbytes-int8", "SCB", _narrow, "'m.SCB' is F32 [1], and not a scale for each of 32 rows"),
    ("bitsandbytes-int8", "weight", torch.Tensor.float, "and not a matrix of whole numbers of eight bits"),
    ("bitsandbytes-nf4", "weight.absmax", _cut, "The state of m by bitsandbytes does not fit its numbers"),
    ("bitsandbytes-nf4", "weight.absmax", _twice, "The state of m by bitsandbytes does not fit its numbers"),
    ("bitsandbytes-nf4", "weight", _twice, "The state of m by bitsandbytes does not fit its numbers"),
    ("bitsandbytes-nf4", "weight.absmax", torch.Tensor.byte, "does not fit its numbers"),
    ("compressed-int4", "weight_packed", _row, "cannot hold [32, 64] in 4 bits"),
    ("compressed-int4", "weight_shape", _narrow, "is damaged (IndexError"),
    ("compressed-int4", "weight_shape", torch.neg, "cannot hold [-32, -64] in 4 bits"),
    ("compressed-int4", "weight_zero_point", _cut, "do not fit together as compressed-tensors stores them"),
    ("compressed-nvfp4", "weight_scale", lambda t: t[:, :0], "do not fit together as compressed-tensors"),
    ("fp8", "weight_scale_inv", lambda t: t[:, :0], "do not fit together as fp8 stores them"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "end", "damage", "said"), MISFITS)
def test_a_tensor_of_another_shape_or_type_is_refused_instead_of_repeated_or_cut(
    case: str, end: str, damage: Damage, said: str, place: Path
) -> None:
    """Before: a scale of one column stood for all, bytes without their nested scale for themselves, others crashed."""
    tensors, _, settings = stored(case)
    with pytest.raises(ModelError) as found:
        read(place, {**tensors, f"m.{end}": damage(tensors[f"m.{end}"])}, settings)
    assert said in str(found.value)


def test_scales_that_are_scaled_themselves_are_not_read_without_their_own_scales(place: Path) -> None:
    tensors, values, said = stored("bitsandbytes-nested")
    assert torch.allclose(read(place, tensors, said), values, atol=1e-6)
    without = {name: own for name, own in tensors.items() if "nested_absmax" not in name}
    with pytest.raises(ModelError, match="nested_absmax' is missing"):
        read(place, without, said)
    none = {name: own for name, own in tensors.items() if "nested" not in name}
    with pytest.raises(ModelError, match="does not fit its numbers"):
        read(place, none, said)


SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("compressed-int4", {"config_groups": 3}), ("compressed-int4", {"config_groups": [1, 2]}),
    ("compressed-int4", {"config_groups": {"g": {"targets": 5}}}),
    ("compressed-int4", {"config_groups": {"g": {"targets": ["Linear"], "weights": "int4"}}}),
    ("compressed-int4", {"config_groups": {"g": {"targets": ["re:("], "weights": {"num_bits": 4}}}}),
    ("compressed-int4", {"config_groups": {"g": {"targets": ["Linear"], "weights": {"num_bits": 0}}}}),
    ("compressed-int4", {"config_groups": {"g": {"targets": ["Linear"], "weights": {"num_bits": 10**12}}}}),
    ("compressed-int4", {"sparsity_config": "dense"}), ("gptq-4", {"bits": [4]}), ("gptq-4", {"group_size": "x"}),
    ("gptq-4", {"checkpoint_format": {"a": 1}}), ("awq", {"bits": None, "w_bit": 3}), ("awq", {"version": ["gemm"]}),
]  # fmt: skip


@pytest.mark.parametrize(("case", "changes"), SETTINGS)
def test_settings_that_are_no_settings_are_refused_in_words(case: str, changes: dict[str, Any], place: Path) -> None:
    tensors, _, said = stored(case)
    with pytest.raises(FacteditError) as found:
        read(place, tensors, {**said, **changes})
    assert type(found.value) in (ModelError, UnsupportedModel)
    assert any(advice in str(found.value) for advice in ("Get the model again", "Use the original", "whole number"))


STATES = (
    "{}", "[1]", "{", "null", '{"shape": "ab", "blocksize": 64}', '{"shape": [-32, -64], "blocksize": 64}',
    '{"shape": [32, 64], "blocksize": 0}', '{"shape": [32, 64], "blocksize": -1}',
    '{"shape": [1000000, 64], "blocksize": 64}', '{"shape": [32, 64], "blocksize": "many"}', "[" * 100_000,
)  # fmt: skip


@pytest.mark.parametrize("state", [*(text.encode() for text in STATES), b"\xff\xfe"], ids=range(len(STATES) + 1))
def test_a_state_of_four_bits_that_says_something_else(state: bytes, place: Path) -> None:
    tensors, _, said = stored("bitsandbytes-nf4")
    tensors["m.weight.quant_state.bitsandbytes__nf4"] = torch.tensor(list(state), dtype=torch.uint8)
    with pytest.raises(ModelError, match=r"The state of m by bitsandbytes (is damaged|does not fit its numbers)"):
        read(place, tensors, said)


PARTS = [(case, name) for case in CASES for name in stored(case)[0]]
OPTIONAL = ("weight_format", "g_idx", "weight_global_scale", "weight_zero_point")


@pytest.mark.parametrize(("case", "name"), [part for part in PARTS if not part[1].endswith(OPTIONAL)])
def test_no_part_can_be_left_out(case: str, name: str, place: Path) -> None:
    """Without the part by which it is known a weight is not found; it is refused later, as one without a place."""
    tensors, _, said = stored(case)
    del tensors[name]
    known_by = ("qweight", "SCB", "nf4", "fp4", "weight_packed", "m.weight")
    if name.endswith(known_by) and not (name == "m.weight" and "bitsandbytes" in case):
        found = opened(place, tensors, said)
        assert found is not None
        assert found.packed == {}
        return
    with pytest.raises(ModelError, match=r"is missing, without which|does not fit its numbers"):
        opened(place, tensors, said)


def test_what_is_not_quantised_stands_as_it_is(place: Path) -> None:
    tensors, values, said = stored("compressed-fp8")
    own = {"n.weight": torch.eye(4).half(), "n.bias": torch.ones(4), "m.input_scale": torch.ones(1)}
    found = opened(place, tensors | own, said)
    assert found is not None
    assert sorted(found.plain) == ["n.bias", "n.weight"], "scales of activations are no weights"
    assert found.plain_modules() == ["n"]
    assert found.plain_modules(["n.weight"]) == []
    read_as = found.as_read()
    assert {name: (t.kind, t.shape) for name, t in read_as.items()} == {
        "m.weight": ("F32", (32, 64)), "n.weight": ("F16", (4, 4)), "n.bias": ("F32", (4,)),
    }  # fmt: skip
    weights = found.weights(torch.bfloat16)
    assert torch.equal(weights["m.weight"], values.bfloat16())
    assert weights["n.weight"].dtype == torch.float16, "a weight that is stored as it is stays as it is"
    assert found.in_short() == ("compressed-tensors", 1)
    assert opened(place, own, None) is None
