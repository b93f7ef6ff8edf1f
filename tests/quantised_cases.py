"""Quantised folders for tests, made by quantisers written from the published formats, one number after the other.

Every quantiser gives the tensors of one matrix `[d_out, d_in]` and the values they stand for, computed from the whole
numbers themselves and never read back from the packed tensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from conftest import tiny_lm, tiny_tokenizer

Stored = dict[str, torch.Tensor]
GROUP = 16
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
FP4 = (0.0, 0.0052083333, 0.66666667, 1.0, 0.33333333, 0.5, 0.16666667, 0.25)
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M1_ALL = (*E2M1, *(-value for value in E2M1))


def words(rows: np.ndarray, bits: int) -> torch.Tensor:
    """Numbers `[rows, n]` as one long number a row, cut into words of 32 bits: the lowest first."""
    out = []
    for row in rows:
        whole = sum(int(value) << (bits * n) for n, value in enumerate(row))
        count = -(-len(row) * bits // 32)
        out.append([(whole >> (32 * n)) & 0xFFFFFFFF for n in range(count)])
    return torch.from_numpy(np.array(out, dtype=np.uint32).view(np.int32))


def grouped(weight: torch.Tensor, bits: int, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q `[d_out, d_in]`, scales (float16) and zeros `[d_out, groups]`, by the smallest and largest of each group."""
    w = weight.double().numpy().reshape(weight.shape[0], -1, group)
    low, high, most = np.minimum(w.min(-1), 0), np.maximum(w.max(-1), 0), 2**bits - 1
    scales = ((high - low) / most).astype(np.float16)
    zeros = np.clip(np.round(-low / scales.astype(np.float64)), 1, most).astype(np.int64)
    q = np.clip(np.round(w / scales.astype(np.float64)[..., None]) + zeros[..., None], 0, most).astype(np.int64)
    return q.reshape(weight.shape), scales, zeros


def worth(q: np.ndarray, scales: np.ndarray, zeros: np.ndarray, group: int) -> torch.Tensor:
    """(q − z) s in float32."""
    centred = q.reshape(len(q), -1, group) - zeros[..., None]
    return torch.from_numpy((centred * scales[..., None].astype(np.float32)).astype(np.float32).reshape(q.shape))


def gptq(weight: torch.Tensor, bits: int = 4, *, v2: bool = False, order: bool = False) -> tuple[Stored, torch.Tensor]:
    """GPTQ; with `order` the columns are grouped in another order than they stand in."""
    columns = torch.randperm(weight.shape[1], generator=torch.Generator().manual_seed(1)) if order else None
    q, scales, zeros = grouped(weight if columns is None else weight[:, columns], bits, GROUP)
    values, index = worth(q, scales, zeros, GROUP), np.arange(weight.shape[1]) // GROUP
    if columns is not None:
        back = torch.argsort(columns)
        q, values, index = q[:, back.numpy()], values[:, back], index[back.numpy()]
    return {
        "qweight": words(q, bits).T.contiguous(),
        "qzeros": words((zeros.T - (not v2)) % 2**bits, bits),
        "scales": torch.from_numpy(scales.T.copy()),
        "g_idx": torch.from_numpy(index).int(),
    }, values


def awq(weight: torch.Tensor) -> tuple[Stored, torch.Tensor]:
    """AWQ (gemm)."""
    q, scales, zeros = grouped(weight, 4, GROUP)
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def packed(rows: np.ndarray) -> torch.Tensor:
        return words(rows.reshape(len(rows), -1, 8)[:, :, order].reshape(len(rows), -1), 4)

    stored = {"qweight": packed(q.T), "qzeros": packed(zeros.T), "scales": torch.from_numpy(scales.T.copy())}
    return stored, worth(q, scales, zeros, GROUP)


def int8_rows(weight: torch.Tensor) -> tuple[Stored, torch.Tensor]:
    """bitsandbytes' LLM.int8()."""
    most = weight.abs().amax(1)
    q = (weight * 127 / most[:, None]).round().to(torch.int8)
    stored = {"weight": q, "SCB": most, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return stored, q.float() * most[:, None] / 127


def four_bits(weight: torch.Tensor, kind: str = "nf4", *, nested: bool = False) -> tuple[Stored, torch.Tensor]:
    """bitsandbytes' NF4 or FP4 in blocks of 64; nested: with quantised block sizes."""
    table = np.array(NF4 if kind == "nf4" else (*FP4, *(-value for value in FP4)), dtype=np.float32)
    flat = weight.numpy().reshape(-1, 64)
    most = np.abs(flat).max(1).astype(np.float32)
    stored: Stored = {"weight.quant_map": torch.from_numpy(table)}
    state: dict[str, Any] = {"quant_type": kind, "blocksize": 64, "dtype": "float32", "shape": list(weight.shape)}
    if nested:
        offset, codes = float(most.mean()), np.linspace(-1, 1, 256, dtype=np.float32)
        outer = np.abs(most - offset).max(keepdims=True).astype(np.float32)
        number = np.abs((most - np.float32(offset))[:, None] / outer - codes).argmin(1).astype(np.uint8)
        most = (codes[number] * outer + np.float32(offset)).astype(np.float32)
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
        stored |= {"weight.absmax": torch.from_numpy(number), "weight.nested_absmax": torch.from_numpy(outer)}
        stored["weight.nested_quant_map"] = torch.from_numpy(codes)
    else:
        stored["weight.absmax"] = torch.from_numpy(most)
    q = np.abs(flat[..., None] / most[:, None, None] - table).argmin(-1)
    pairs = q.reshape(-1, 2)
    stored["weight"] = torch.from_numpy((pairs[:, :1] * 16 + pairs[:, 1:]).astype(np.uint8))
    said = json.dumps(state).encode()
    stored[f"weight.quant_state.bitsandbytes__{kind}"] = torch.tensor(list(said), dtype=torch.uint8)
    return stored, torch.from_numpy((table[q] * most[:, None]).reshape(weight.shape))


def fp8(weight: torch.Tensor, *, block: int = 24, powers: bool = False) -> tuple[Stored, torch.Tensor]:
    """DeepSeek's blocks; those at the edge are smaller. With `powers` the scales are powers of two (E8M0)."""
    rows, columns = (-(-size // block) for size in weight.shape)
    scales, values = torch.zeros(rows, columns), torch.zeros(weight.shape)
    q = torch.zeros(weight.shape, dtype=torch.float8_e4m3fn)
    for r in range(rows):
        for c in range(columns):
            at = slice(r * block, (r + 1) * block), slice(c * block, (c + 1) * block)
            scale = float(weight[at].abs().max()) / 448
            scales[r, c] = 2.0 ** np.ceil(np.log2(scale)) if powers else scale
            q[at] = (weight[at] / scales[r, c]).to(torch.float8_e4m3fn)
            values[at] = q[at].float() * scales[r, c]
    return {"weight": q, "weight_scale_inv": scales.to(torch.float8_e8m0fnu) if powers else scales}, values


def fp8_rows(weight: torch.Tensor) -> tuple[Stored, torch.Tensor]:
    """FP8 with a scale per row."""
    scales = weight.abs().amax(1, keepdim=True) / 448
    q = (weight / scales).to(torch.float8_e4m3fn)
    return {"weight": q, "weight_scale": scales}, q.float() * scales


def pack_quantized(weight: torch.Tensor, bits: int = 4, *, symmetric: bool = False) -> tuple[Stored, torch.Tensor]:
    """compressed-tensors' whole numbers in words."""
    half, shape = 2 ** (bits - 1), torch.tensor(weight.shape)
    q, scales, zeros = grouped(weight, bits, GROUP)
    if symmetric:
        w = weight.double().numpy().reshape(weight.shape[0], -1, GROUP)
        scales = (np.abs(w).max(-1) / (half - 1)).astype(np.float16)
        zeros = np.full_like(zeros, half)
        q = np.clip(np.round(w / scales.astype(np.float64)[..., None]) + half, 0, 2 * half - 1).astype(np.int64)
        q = q.reshape(weight.shape)
    stored = {"weight_packed": words(q, bits), "weight_scale": torch.from_numpy(scales), "weight_shape": shape}
    if not symmetric:
        stored["weight_zero_point"] = words(zeros.T, bits).T.contiguous()
    return stored, worth(q, scales, zeros, GROUP)


def int8_channels(weight: torch.Tensor) -> tuple[Stored, torch.Tensor]:
    """compressed-tensors' int8 with a scale per row."""
    scales = weight.abs().amax(1, keepdim=True) / 127
    q = (weight / scales).round().to(torch.int8)
    return {"weight": q, "weight_scale": scales}, q.float() * scales


def fp4_groups(weight: torch.Tensor, *, nvidia: bool = True) -> tuple[Stored, torch.Tensor]:
    """NVFP4 (groups of 16, float8 scales over one for all) or MXFP4 (groups of 32, powers of two)."""
    size = 16 if nvidia else 32
    w = weight.reshape(weight.shape[0], -1, size)
    most = w.abs().amax(-1)
    outer = 448 * 6 / most.max()
    exponent = (most / 6).log2().ceil()
    scales = (most / 6 * outer).to(torch.float8_e4m3fn) if nvidia else (exponent + 127).to(torch.uint8)
    wide = scales.float() / outer if nvidia else torch.exp2(exponent)
    q = (w[..., None] / wide[..., None, None] - torch.tensor(E2M1_ALL)).abs().argmin(-1)
    values = torch.tensor(E2M1_ALL)[q] * wide[..., None]
    pairs = q.reshape(weight.shape[0], -1, 2)
    stored = {"weight_packed": (pairs[..., 0] + 16 * pairs[..., 1]).to(torch.uint8), "weight_scale": scales}
    return (stored | {"weight_global_scale": outer.view(1)} if nvidia else stored), values.view(weight.shape)


def mxfp4(weight: torch.Tensor) -> tuple[Stored, torch.Tensor]:
    """gpt-oss' experts, of a weight `[experts, d_in, d_out]` as transformers has it."""
    turned = weight.transpose(1, 2).contiguous()
    one = [fp4_groups(expert, nvidia=False) for expert in turned]
    blocks = torch.stack([stored["weight_packed"].reshape(turned.shape[1], -1, 16) for stored, _ in one])
    scales = torch.stack([stored["weight_scale"] for stored, _ in one])
    return {"blocks": blocks, "scales": scales}, torch.stack([v for _, v in one]).transpose(1, 2).contiguous()


_LINEAR: dict[str, Any] = {"targets": ["Linear"], "input_activations": None, "output_activations": None}


def _config_group(**weights: Any) -> dict[str, Any]:
    full = {"type": "int", "strategy": "group", "group_size": GROUP, "symmetric": False, "dynamic": False, **weights}
    return {"group_0": {**_LINEAR, "weights": full}}


def _said_compressed(form: str, **weights: Any) -> dict[str, Any]:
    said = {"quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed"}
    return {**said, "ignore": ["lm_head"], "config_groups": _config_group(**weights)}


_BNB = {"quant_method": "bitsandbytes", "bnb_4bit_compute_dtype": "float32"}
_GPTQ = {"quant_method": "gptq", "group_size": GROUP, "desc_act": False, "sym": False, "checkpoint_format": "gptq"}
_AWQ = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}
_FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [24, 24]}
CASES: dict[str, tuple[Callable[[torch.Tensor], tuple[Stored, torch.Tensor]], dict[str, Any]]] = {
    "bitsandbytes-int8": (int8_rows, {**_BNB, "load_in_8bit": True}),
    "bitsandbytes-nf4": (four_bits, {**_BNB, "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
    "bitsandbytes-fp4": (lambda w: four_bits(w, "fp4"), {**_BNB, "load_in_4bit": True}),
    "bitsandbytes-nested": (
        lambda w: four_bits(w, nested=True), {**_BNB, "load_in_4bit": True, "bnb_4bit_use_double_quant": True},
    ),
    "gptq-4": (gptq, {**_GPTQ, "bits": 4}),
    "gptq-3": (lambda w: gptq(w, 3), {**_GPTQ, "bits": 3}),
    "gptq-8-v2": (lambda w: gptq(w, 8, v2=True), {**_GPTQ, "bits": 8, "checkpoint_format": "gptq_v2"}),
    "gptq-ordered": (lambda w: gptq(w, order=True), {**_GPTQ, "bits": 4, "desc_act": True}),
    "awq": (awq, _AWQ),
    "fp8": (fp8, _FP8),
    "fp8-whole-blocks": (lambda w: fp8(w, block=16), {**_FP8, "weight_block_size": [16, 16]}),
    "fp8-powers": (lambda w: fp8(w, powers=True), {**_FP8, "scale_fmt": "ue8m0"}),
    "fbgemm-fp8": (fp8_rows, {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}),
    "compressed-int4": (pack_quantized, _said_compressed("pack-quantized", num_bits=4)),
    "compressed-int4-symmetric": (
        lambda w: pack_quantized(w, symmetric=True), _said_compressed("pack-quantized", num_bits=4, symmetric=True),
    ),
    "compressed-int3": (lambda w: pack_quantized(w, 3), _said_compressed("pack-quantized", num_bits=3)),
    "compressed-int8": (
        int8_channels,
        _said_compressed("int-quantized", num_bits=8, strategy="channel", group_size=None, symmetric=True),
    ),
    "compressed-fp8": (
        fp8_rows,
        _said_compressed(
            "float-quantized", num_bits=8, type="float", strategy="channel", group_size=None, symmetric=True
        ),
    ),
    "compressed-nvfp4": (
        fp4_groups,
        _said_compressed(
            "nvfp4-pack-quantized", num_bits=4, type="float", strategy="tensor_group", symmetric=True, group_size=16
        ),
    ),
    "compressed-mxfp4": (
        lambda w: fp4_groups(w, nvidia=False),
        _said_compressed("mxfp4-pack-quantized", num_bits=4, type="float", symmetric=True, group_size=32),
    ),
}  # fmt: skip


def quantised_folder(
    folder: Path, case: str, *, sizes: dict[str, int] | None = None, **changes: Any
) -> tuple[Path, Any]:
    """A tiny quantised Llama, and the model that its values make.

    Args:
        folder: where to; new.
        case: one of `CASES`.
        sizes: of the model.
        changes: to the settings of the quantisation.
    """
    quantise, said = CASES[case]
    lm = tiny_lm(
        "llama", **{"num_hidden_layers": 2, "intermediate_size": 64, "tie_word_embeddings": False, **(sizes or {})}
    )
    lm.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    tensors: Stored = {}
    for name, tensor in lm.state_dict().items():
        if ".layers." in name and tensor.ndim == 2:
            stored, values = quantise(tensor)
            tensors |= {f"{name.removesuffix('weight')}{end}": own for end, own in stored.items()}
            tensor.copy_(values)
        else:
            tensors[name] = tensor
    return write_folder(folder, lm, tensors, {**said, **changes})


def write_folder(folder: Path, lm: Any, tensors: Stored, said: dict[str, Any]) -> tuple[Path, Any]:
    """Put tensors and the settings of a quantisation in the place of a model's own."""
    save_file({n: t.contiguous().clone() for n, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": said}, indent=2) + "\n")
    return folder, lm


def gpt_oss_folder(folder: Path) -> tuple[Path, Any]:
    """A tiny gpt-oss whose experts are MXFP4, and the model that its values make."""
    kinds = ["sliding_attention", "full_attention"]
    lm = tiny_lm("gpt_oss", num_hidden_layers=2, layer_types=kinds, intermediate_size=64)
    lm.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    tensors: Stored = {}
    for name, tensor in lm.state_dict().items():
        if name.endswith(("experts.down_proj", "experts.gate_up_proj")):
            stored, values = mxfp4(tensor)
            tensors |= {f"{name}_{end}": own for end, own in stored.items()}
            tensor.copy_(values)
        else:
            tensors[name] = tensor
    said = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    return write_folder(folder, lm, tensors, said)


def experts_folders(
    place: Path, quantise: Callable[[torch.Tensor], tuple[Stored, torch.Tensor]], said: dict[str, Any]
) -> tuple[Path, Path]:
    """A tiny Qwen 3 of experts, each one's matrices and the output matrix quantised; before it one of their values."""
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "moe_intermediate_size": 16, "tie_word_embeddings": False}
    lm = tiny_lm("qwen3_moe", **sizes)
    plain, packed = place / "plain", place / "packed"
    for folder in (plain, packed):
        lm.save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
    values, tensors = load_file(plain / "model.safetensors"), dict[str, torch.Tensor]()
    for name, tensor in values.items():
        if ".experts." in name or name == "lm_head.weight":
            stored, values[name] = quantise(tensor)
            tensors |= {f"{name.removesuffix('weight')}{end}": part for end, part in stored.items()}
        else:
            tensors[name] = tensor
    save_file({n: t.contiguous().clone() for n, t in values.items()}, plain / "model.safetensors", {"format": "pt"})
    return plain, write_folder(packed, lm, tensors, said)[0]


def fp8_experts_folder(folder: Path) -> Path:
    """A tiny Qwen 3 of experts in FP8, each expert's matrices in tensors of their own, as such folders are."""
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "moe_intermediate_size": 16}
    lm = tiny_lm("qwen3_moe", **sizes)
    lm.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    tensors: Stored = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if ".experts." in name:
            tensors |= {f"{name.removesuffix('weight')}{end}": own for end, own in fp8(tensor, block=16)[0].items()}
        else:
            tensors[name] = tensor
    return write_folder(folder, lm, tensors, {**_FP8, "weight_block_size": [16, 16]})[0]
