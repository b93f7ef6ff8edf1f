"""Quantised folders: their weights are the values that the published formats say, or the folder is refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from factedit.errors import ModelError, UnsupportedModel
from factedit.files.checkpoint import load_checkpoint
from factedit.files.checkpoint_weights import StoredTensor
from factedit.files.quantised.bits import pack, unpack
from factedit.files.quantised.kind import Packed
from factedit.files.quantised.table import KINDS, kind_of, quantised
from quantised_cases import CASES, awq, experts_folders, gpt_oss_folder, gptq, quantised_folder
from tiny_folder import change, refuse

FIRST = "model.layers.0.mlp.down_proj"
IDS = torch.tensor([[5, 9, 200, 41]])


def alter(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Change tensors of the first MLP's last matrix, by the end of their names; None removes one."""
    stored = load_file(folder / "model.safetensors")
    for end, tensor in tensors.items():
        name = f"{FIRST}.{end}"
        stored.pop(name) if tensor is None else stored.update({name: tensor})
    save_file(stored, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("case", CASES)
def test_every_kind_is_read_as_the_values_it_stands_for(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, expected = quantised_folder(tmp_path / "q", case)
    with caplog.at_level(logging.WARNING, "factedit"):
        found, _ = load_checkpoint(str(folder))
    assert "14 weights are read as dequantised values" in caplog.text
    ours, theirs = found.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    least = 1e-6 if case == "bitsandbytes-int8" else 0  # the order of multiplying and dividing
    assert all(torch.allclose(ours[name], theirs[name], rtol=least, atol=0) for name in theirs)
    assert found.config.to_dict().get("quantization_config") is None
    assert found.name_or_path == str(folder)


def test_experts_in_mxfp4_are_those_that_transformers_reads(tmp_path: Path) -> None:
    folder, expected = gpt_oss_folder(tmp_path / "q")
    found, _ = load_checkpoint(str(folder))
    assert all(torch.equal(found.state_dict()[name], own) for name, own in expected.state_dict().items())
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert all(torch.equal(found.state_dict()[name], own.float()) for name, own in theirs.state_dict().items())


def test_fp8_in_blocks_is_what_transformers_reads(tmp_path: Path) -> None:
    folder, _ = quantised_folder(tmp_path / "q", "fp8", weight_block_size=[16, 16])
    stored = load_file(folder / "model.safetensors")
    scales = {name: t for name, t in stored.items() if name.endswith("scale_inv")}
    for name, scale in scales.items():  # transformers wants whole blocks
        rows, columns = (size // 16 for size in stored[name.removesuffix("_scale_inv")].shape)
        stored[name] = scale[:1, :1] * torch.linspace(0.5, 2, rows * columns).view(rows, columns)
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    found, _ = load_checkpoint(str(folder))
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert all(torch.equal(found.state_dict()[name], own.float()) for name, own in theirs.state_dict().items())


def test_values_by_hand() -> None:
    """Two numbers of each format, worked out from its text."""
    four = KINDS["gptq"].read(
        Packed("w", (1, 8), {}, "m", {"bits": 4, "less": 1, "group": 8, "groups": 1}),
        {"qweight": torch.tensor([[0x0000009F]]).int(), "qzeros": torch.tensor([[7]]).int(),
         "scales": torch.tensor([[0.5]]).half()},
    )  # fmt: skip
    assert four.tolist() == [[3.5, 0.5, -4, -4, -4, -4, -4, -4]]  # (15 − 8) / 2, (9 − 8) / 2, (0 − 8) / 2
    one = KINDS["awq"].read(
        Packed("w", (8, 1), {}, "m", {"group": 1}),
        {"qweight": torch.tensor([[0x00000021]]).int(), "qzeros": torch.zeros(1, 1).int(), "scales": torch.ones(1, 8)},
    )
    assert one.T.tolist() == [[1, 0, 2, 0, 0, 0, 0, 0]]  # the second place of a word is column 2
    blocks = torch.zeros(1, 1, 1, 16, dtype=torch.uint8)
    blocks[0, 0, 0, 0] = 0xA7  # low half 7 = 6.0, high half 10 = −1.0
    experts = KINDS["mxfp4"].read(
        Packed("w", (1, 32, 1), {}, "m"), {"blocks": blocks, "scales": torch.tensor([[[128]]], dtype=torch.uint8)}
    )
    assert experts[0, :3, 0].tolist() == [12, -2, 0]  # times 2^(128 − 127)


@pytest.mark.parametrize("bits", range(1, 9))
def test_numbers_that_lie_across_words(bits: int) -> None:
    numbers = torch.randint(0, 2**bits, (3, 37), generator=torch.Generator().manual_seed(bits))
    assert torch.equal(unpack(pack(numbers, bits), bits, 37), numbers.int())
    whole = sum(int(n) << (bits * at) for at, n in enumerate(numbers[0]))
    assert int(unpack(pack(numbers, bits), bits, 37)[0, 10]) == (whole >> (10 * bits)) % 2**bits


def parts_of(said: dict, tensors: dict[str, torch.Tensor]) -> tuple:
    """The kind, the one weight `m.weight` and its parts."""
    headers = {name: StoredTensor("f", KINDS_OF[own.dtype], tuple(own.shape)) for name, own in tensors.items()}
    kind = kind_of(said, "it")
    packed = kind.find(said, headers, tensors.__getitem__)["m.weight"]
    return kind, packed, {role: tensors[name] for role, name in packed.parts.items()}


@pytest.mark.parametrize("scale", [torch.tensor(0.25), torch.tensor([0.25]), torch.tensor([[0.25]])])
@pytest.mark.parametrize("method", ["fp8", "compressed-tensors"])
def test_one_scale_for_a_whole_matrix(method: str, scale: torch.Tensor) -> None:
    weight = torch.tensor([[1.0, -2.0, 448.0], [0.5, 0.0, 3.0]])
    stored = {"m.weight": weight.to(torch.float8_e4m3fn), "m.weight_scale": scale}
    kind, packed, parts = parts_of({"quant_method": method}, stored)
    assert torch.equal(kind.read(packed, parts), weight / 4)
    again = kind.write(packed, parts, weight / 2)  # twice as large: the scale grows
    assert again["scales"].shape == scale.shape
    assert torch.equal(kind.read(packed, again), weight / 2)


def test_compressed_int8_with_zero_points_and_columns_in_another_order() -> None:
    said = {
        "quant_method": "compressed-tensors",
        "config_groups": {"g": {"targets": ["re:^m$"], "weights": {"num_bits": 4}}},
    }
    q = torch.tensor([[1, -2, 3, -8]])
    eight = {"m.weight": q.to(torch.int8), "m.weight_scale": torch.tensor([[0.5]])}
    eight["m.weight_zero_point"] = torch.tensor([[2]], dtype=torch.int8)
    kind, packed, parts = parts_of(said, eight)
    assert kind.read(packed, parts).tolist() == [[-0.5, -2, 0.5, -5]]  # (q − 2) / 2
    assert kind.read(packed, kind.write(packed, parts, torch.tensor([[1.0, 0, -1, 2]]))).tolist() == [[1, 0, -1, 2]]
    ordered = {
        "m.weight_packed": pack(q + 8, 4), "m.weight_shape": torch.tensor([1, 4]),
        "m.weight_scale": torch.tensor([[1.0, 10.0]]), "m.weight_g_idx": torch.tensor([1, 0, 1, 0]).int(),
    }  # fmt: skip
    kind, packed, parts = parts_of(said, ordered)
    assert kind.read(packed, parts).tolist() == [[10, -2, 30, -8]]


def test_mxfp8_is_float8_times_a_power_of_two_for_every_32() -> None:
    said = {"quant_method": "compressed-tensors", "format": "mxfp8-quantized"}
    stored = {"m.weight": torch.ones(2, 64).to(torch.float8_e4m3fn)}
    stored["m.weight_scale"] = torch.tensor([[127, 128], [126, 130]], dtype=torch.uint8)
    kind, packed, parts = parts_of(said, stored)
    values = kind.read(packed, parts)
    assert values[:, ::32].tolist() == [[1, 2], [0.5, 8]]
    assert torch.equal(values, values[:, ::32].repeat_interleave(32, 1))
    assert torch.equal(kind.read(packed, kind.write(packed, parts, values)), values)


@pytest.mark.parametrize("key", ["checkpoint_format", "format"])
@pytest.mark.parametrize("v2", [False, True])
def test_gptqs_format_has_two_names(key: str, v2: bool) -> None:
    """Before: `format` alone was passed by, and every zero point of a second-version folder read one too high."""
    tensors, values = gptq(0.1 * torch.randn(32, 64, generator=torch.Generator().manual_seed(3)), v2=v2)
    said = {"quant_method": "gptq", "bits": 4, "group_size": 16, key: "gptq_v2" if v2 else "gptq"}
    kind, packed, parts = parts_of(said, {f"m.{end}": own for end, own in tensors.items()})
    assert torch.equal(kind.read(packed, parts), values)


@pytest.mark.parametrize(
    ("rules", "bits"),
    [
        ({"+:^m$": {"bits": 8}}, 8), ({"m": {"bits": 8}, "+:.*": {"bits": 3}}, 8), ({"-:^m$": {}, "m": {"bits": 8}}, 4),
        ({"other": {"bits": 8}}, 4), (None, 4),
    ],
)  # fmt: skip
def test_gptqs_rules_give_modules_bits_of_their_own(rules: dict | None, bits: int) -> None:
    """Before: eight bits were read as twice as many numbers of four."""
    tensors, values = gptq(0.1 * torch.randn(32, 64, generator=torch.Generator().manual_seed(4)), bits)
    said = {"quant_method": "gptq", "bits": 4, "group_size": 16, "dynamic": rules}
    kind, packed, parts = parts_of(said, {f"m.{end}": own for end, own in tensors.items()})
    assert torch.equal(kind.read(packed, parts), values)
    assert torch.equal(kind.read(packed, kind.write(packed, parts, values)), values)


@pytest.mark.parametrize("quantise", [gptq, awq], ids=["gptq", "awq"])
def test_experts_one_by_one_and_the_output_matrix(quantise: Callable, tmp_path: Path) -> None:
    said = {"quant_method": quantise.__name__, "bits": 4, "group_size": 16, "version": "gemm", "lm_head": True}
    plain, packed = experts_folders(tmp_path, quantise, said)
    ours, theirs = (load_checkpoint(str(folder))[0].state_dict() for folder in (packed, plain))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


# Written again


@pytest.mark.parametrize("case", CASES)
def test_written_again_unchanged_numbers_keep_their_bits(case: str) -> None:
    """And of a changed matrix half a step of each format is lost, or less where a scale grows with the change."""
    random = torch.Generator().manual_seed(5)
    weight = 0.05 * torch.randn(32, 64, generator=random)
    made, said = CASES[case]
    stored, values = made(weight)
    tensors = {f"m.{end}": tensor for end, tensor in stored.items()}
    kind, packed, parts = parts_of(said, tensors)
    again = kind.write(packed, parts, kind.read(packed, parts))
    assert all(torch.equal(_bits(own), _bits(again[role])) for role, own in parts.items())
    row = torch.zeros(32, 64)
    row[3] = 0.02 * torch.randn(64, generator=random)
    new = kind.write(packed, parts, values + row)
    assert {role: (t.dtype, t.shape) for role, t in new.items()} == {r: (t.dtype, t.shape) for r, t in parts.items()}
    stored_change = kind.read(packed, new) - kind.read(packed, parts)
    steps = {"fp8": 0.12, "int8": 0.03, "gptq-8": 0.03, "3": 0.9, "fp4": 0.7}
    least = next((step for name, step in steps.items() if name in case), 0.45)
    assert float((stored_change - row).norm() / row.norm()) < least
    others = [n for n in range(32) if n // 24 * 24 != 0] if case in ("fp8", "fp8-powers") else [*range(16, 32)]
    assert torch.equal(stored_change[others], torch.zeros(len(others), 64))


KINDS_OF = {
    torch.float32: "F32", torch.float16: "F16", torch.uint8: "U8", torch.int8: "I8", torch.int32: "I32",
    torch.int64: "I64", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e8m0fnu: "F8_E8M0",
}  # fmt: skip


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


# Refused


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("case", "end"),
    [("gptq-4", "scales"), ("bitsandbytes-int8", "SCB"), ("fp8", "weight_scale_inv"), ("awq", "scales")],
)
def test_scales_that_are_not_finite(case: str, end: str, bad: float, tmp_path: Path) -> None:
    folder, _ = quantised_folder(tmp_path / "q", case)
    scales = load_file(folder / "model.safetensors")[f"{FIRST}.{end}"]
    scales.view(-1)[3] = bad
    alter(folder, **{end: scales})
    refuse(folder, ModelError, rf"{FIRST}.weight of .* cannot be dequantised: {FIRST}.{end} holds NaN or infinity")


def test_a_power_of_two_that_is_no_number(tmp_path: Path) -> None:
    folder, _ = quantised_folder(tmp_path / "q", "fp8-powers")
    scales = load_file(folder / "model.safetensors")[f"{FIRST}.weight_scale_inv"]
    scales.view(torch.uint8)[0, 0] = 255
    alter(folder, weight_scale_inv=scales)
    refuse(folder, ModelError, f"{FIRST}.weight_scale_inv holds NaN")


@pytest.mark.parametrize(("case", "end"), [("gptq-4", "scales"), ("awq", "qzeros"), ("fp8", "weight_scale_inv")])
def test_a_part_that_is_missing(case: str, end: str, tmp_path: Path) -> None:
    folder, _ = quantised_folder(tmp_path / "q", case)
    alter(folder, **{end: None})
    refuse(folder, ModelError, f"The tensor '{FIRST}.{end}' is missing, without which a weight cannot be dequantised")


def test_parts_that_do_not_fit_together(tmp_path: Path) -> None:
    folder, _ = quantised_folder(tmp_path / "q", "gptq-4")
    alter(folder, g_idx=torch.full((64,), 5).int())
    refuse(folder, ModelError, f"The tensors of {FIRST}.weight of .* do not fit together as gptq stores them")


def test_a_state_of_four_bits_that_is_damaged(tmp_path: Path) -> None:
    folder, _ = quantised_folder(tmp_path / "q", "bitsandbytes-nf4")
    alter(folder, **{"weight.quant_state.bitsandbytes__nf4": torch.tensor([1, 2, 3], dtype=torch.uint8)})
    refuse(folder, ModelError, f"The state of {FIRST} by bitsandbytes is damaged")


@pytest.mark.parametrize(
    ("case", "said", "match"),
    [
        ("gptq-4", {"bits": 5}, "quantised by gptq with 5 bits"),
        ("gptq-4", {"checkpoint_format": "marlin"}, "stored as 'marlin', which is not read"),
        ("gptq-4", {"checkpoint_format": None, "format": "bitblas"}, "stored as 'bitblas', which is not read"),
        ("awq", {"version": None, "format": "gemv_fast"}, "quantised by awq with 4 bits, stored as 'gemv_fast'"),
        ("awq", {"backend": "llm-awq"}, "stored as 'llm-awq', which is not read"),
        ("compressed-nvfp4", {"format": "mxfp6-pack-quantized"}, "with the format 'mxfp6-pack-quantized'"),
        ("compressed-int4", {"config_groups": {"a": {"format": "marlin-24"}}}, "with the format 'marlin-24'"),
        ("compressed-fp8", {"transform_config": {"config_groups": {"u": {}}}}, r"weights that are turned \(transform_"),
        ("awq", {"version": "gemv"}, "quantised by awq with 4 bits, stored as 'gemv'"),
        ("compressed-int4", {"sparsity_config": {"format": "marlin-24"}}, "the sparse format 'marlin-24'"),
    ],
)
def test_variants_that_are_not_read(case: str, said: dict, match: str, tmp_path: Path) -> None:
    folder, _ = quantised_folder(tmp_path / "q", case, **said)
    refuse(folder, UnsupportedModel, match)


def test_settings_without_a_number_of_bits(tmp_path: Path) -> None:
    folder, _ = quantised_folder(tmp_path / "q", "gptq-4", bits="four")
    refuse(folder, ModelError, "gives bits = 'four', not a whole number")


def test_a_quantised_gpt2_is_refused(tmp_path: Path) -> None:
    """Its matrices are stored turned, and quantisers disagree on whether they turn them back."""
    with pytest.raises(UnsupportedModel, match="is a quantised gpt2"):
        quantised(tmp_path, {"model_type": "gpt2", "quantization_config": {"quant_method": "gptq"}}, {}, "X")


def test_packed_weights_without_settings_are_refused(tmp_path: Path) -> None:
    folder, _ = quantised_folder(tmp_path / "q", "gptq-4")
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    refuse(folder, ModelError, "model")


def test_scales_of_activations_are_left_out(tmp_path: Path) -> None:
    folder, expected = quantised_folder(tmp_path / "q", "compressed-fp8")
    alter(folder, input_scale=torch.ones(1))
    found, _ = load_checkpoint(str(folder))
    assert torch.equal(found.state_dict()[f"{FIRST}.weight"], expected.state_dict()[f"{FIRST}.weight"])


def test_rounded_once_where_another_type_is_asked_for(tmp_path: Path) -> None:
    folder, expected = quantised_folder(tmp_path / "q", "gptq-4")
    found, _ = load_checkpoint(str(folder), dtype="bfloat16")
    own = expected.state_dict()[f"{FIRST}.weight"]
    assert torch.equal(found.state_dict()[f"{FIRST}.weight"], own.bfloat16())
    assert load_checkpoint(str(folder), dtype="stored")[0].dtype == torch.float32
    change(folder / "config.json", dtype="float16")
    assert load_checkpoint(str(folder))[0].dtype == torch.float32
