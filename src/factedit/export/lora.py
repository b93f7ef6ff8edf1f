"""Edits as LoRA: a PEFT adapter folder, and llama.cpp's adapter file.

A low-rank ΔW = left right `[d_in, d_out]` is LoRA with A = leftᵀ `[r, d_in]`, B = rightᵀ `[d_out, r]` and
alpha = r, so that the scale alpha / r is one: nothing is approximated. Edits of one matrix stand side by side.
Formats: PEFT's `adapter_config.json` and `adapter_model.safetensors` (LoraConfig); llama.cpp's GGUF with
`general.type` `adapter`, `adapter.type` `lora`, `adapter.lora.alpha`, and tensors `NAME.lora_a`, `NAME.lora_b`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from factedit.edit.artefact import Edit, weights_of
from factedit.edit.effects.low_rank import LowRank
from factedit.errors import DataError, EditError, UsageError
from factedit.files.gguf_reader import open_gguf
from factedit.files.save import write_safetensors
from factedit.models.adapter import EditableModel
from factedit.models.families import Family, Place, split_name

SERVED = 512  # the largest rank that vLLM takes
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
GGUF_MATRIX = {"out": "ffn_down", "in": "ffn_up", "gate": "ffn_gate"}


def factors(edits: Sequence[Edit], *, rank: int | None = None, truncate: bool = False) -> dict[Place, LowRank]:
    """Return the edits as one low-rank change per matrix, all of one rank.

    Edits whose ranks add up to more than a matrix has rows or columns are taken as their sum.

    Args:
        edits: in order.
        rank: of every change, for servers that ask for one: padded with zeros; default: the largest there is.
        truncate: where the edits need a larger rank, keep the directions of the largest singular values.

    Raises:
        EditError: a change is dense.
        UsageError: the edits need a larger rank, or no matrix can have that one.
    """
    changes = {place: _shortest(products) for place, products in _products(edits).items()}
    if not changes:
        raise EditError("The edits change no matrix, so an adapter would hold nothing. Ship them as 'merged'.")
    largest = max(left.shape[1] for left, _ in changes.values())
    most = max(max(left.shape[0], right.shape[1]) for left, right in changes.values())
    if rank is not None and not 1 <= rank <= most:
        raise UsageError(f"Rank {rank} was asked for; an adapter of these matrices has one from 1 to {most}.")
    if rank is not None and rank < largest:
        if not truncate:
            raise UsageError(
                f"Rank {rank} was asked for; the edits of one matrix have rank {largest} together. Ship them as "
                "'merged', ask for that rank, or keep the strongest directions (--truncate), which says what is lost."
            )
        changes = {place: _truncated(*product, rank) for place, product in changes.items()}
    return {place: _padded(place, *product, rank or largest) for place, product in sorted(changes.items())}


def lost_by(edits: Sequence[Edit], kept: dict[Place, LowRank]) -> float:
    """Return ‖ΔW − what is kept‖ / ‖ΔW‖ over all matrices."""
    lost = whole = 0.0
    for place, products in _products(edits).items():
        delta = sum((left.double() @ right.double() for left, right in products), torch.zeros(1, dtype=torch.float64))
        lost += float((delta - kept[place].left.double() @ kept[place].right.double()).square().sum())
        whole += float(delta.square().sum())
    return (lost / whole) ** 0.5 if whole else 0.0


def _products(edits: Sequence[Edit]) -> dict[Place, list[tuple[Tensor, Tensor]]]:
    products: dict[Place, list[tuple[Tensor, Tensor]]] = {}
    for edit in edits:
        for effect in weights_of([edit]):
            product = effect.factors()
            if product is None:
                raise EditError(
                    f"The edit {edit.identity[:12]} ({edit.method}) changes layer {effect.place[0]} as a whole, not by "
                    "a product of thin factors, and LoRA cannot hold that. Ship it as 'merged' or 'gguf'."
                )
            products.setdefault(effect.place, []).append(product)
    return products


def _shortest(products: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Products side by side; their sum, where that takes less room."""
    left = torch.cat([left for left, _ in products], dim=1)
    right = torch.cat([right for _, right in products], dim=0)
    if left.shape[1] <= min(left.shape[0], right.shape[1]):
        return left, right
    whole = (left.double() @ right.double()).float()
    unit = torch.eye(min(whole.shape))
    return (whole, unit) if whole.shape[1] <= whole.shape[0] else (unit, whole)


def _truncated(left: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The product with its largest singular values alone."""
    if left.shape[1] <= rank:
        return left, right
    outer, sizes, inner = torch.linalg.svd(left.double() @ right.double(), full_matrices=False)
    return (outer[:, :rank] * sizes[:rank]).float().contiguous(), inner[:rank].float().contiguous()


def _padded(place: Place, left: Tensor, right: Tensor, rank: int) -> LowRank:
    more = rank - left.shape[1]
    left, right = torch.nn.functional.pad(left, (0, more)), torch.nn.functional.pad(right, (0, 0, 0, more))
    return LowRank(place[0], left, right, place[1])


def write_peft(
    model: EditableModel,
    edits: Sequence[Edit],
    folder: Path,
    *,
    base: str,
    rank: int | None = None,
    truncate: bool = False,
) -> float:
    """Write a PEFT LoRA adapter.

    Args:
        model: the base.
        edits: low-rank ones.
        folder: where to; it exists.
        base: how PEFT finds the base model (`base_model_name_or_path`).
        rank, truncate: see `factors`.

    Returns:
        The share of ‖ΔW‖ that is lost; 0 unless something was cut off.

    Raises:
        EditError, UsageError: see `factors`; a rank that servers refuse.
    """
    changes = factors(edits, rank=rank, truncate=truncate)
    needed = next(iter(changes.values())).rank
    if rank is None and needed > SERVED:
        raise UsageError(
            f"The edits need rank {needed}, and servers such as vLLM take adapters of rank {SERVED} at most. Ship them "
            f"as 'merged'; or as an adapter for others (--rank {needed}); or keep the strongest directions alone "
            f"(--rank {SERVED} --truncate), which says what is lost."
        )
    refuse_experts(changes, "A PEFT adapter", shared=True)
    modules = {place: model.matrix(*place).name.removesuffix(".weight") for place in changes}
    tensors: dict[str, Tensor] = {}
    for place, change in changes.items():
        tensors[f"base_model.model.{modules[place]}.lora_A.weight"] = change.left.T.contiguous()
        tensors[f"base_model.model.{modules[place]}.lora_B.weight"] = change.right.T.contiguous()
    r = next(iter(changes.values())).rank
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": r,
        "lora_alpha": r,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": model.family.stored_in_out,
        "target_modules": "|".join(re.escape(name) for name in modules.values()),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    write_safetensors(folder / WEIGHTS, tensors)
    return lost_by(edits, changes) if truncate else 0.0


def refuse_experts(places: Iterable[Place], form: str, *, shared: bool = False) -> None:
    """Refuse changes of experts, in a form that has no place for them.

    Args:
        places: of the changes.
        form: in words.
        shared: the form holds the matrices of the expert that gets every token, which are stored like any other.

    Raises:
        EditError: naming the first.
    """
    for layer, which in places:
        expert = split_name(which)[1]
        if expert.isdecimal() or (expert and not shared):
            raise EditError(
                f"{form} has no place for a change of one expert, and the edits change {which!r} of layer {layer}. "
                "Ship them as 'merged', or put them on a folder ('factedit apply')."
            )


def gguf_architecture(family: Family) -> str:
    """Return what llama.cpp calls an architecture.

    Raises:
        EditError: it has none.
    """
    if not family.gguf:
        raise EditError(f"llama.cpp does not know the architecture {family.name}. Ship the edit as 'merged' or 'peft'.")
    return family.gguf


def write_llama_lora(model: EditableModel, edits: Sequence[Edit], path: Path) -> None:
    """Write a LoRA adapter file of llama.cpp, in float32.

    Raises:
        EditError: an architecture that llama.cpp does not know, or a dense change.
    """
    import gguf

    changes = factors(edits)
    refuse_experts(changes, "An adapter of llama.cpp")
    writer = gguf.GGUFWriter(path, gguf_architecture(model.family))
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(next(iter(changes.values())).rank))
    for (layer, which), change in changes.items():
        name = f"blk.{layer}.{GGUF_MATRIX[which]}.weight"
        writer.add_tensor(f"{name}.lora_a", change.left.T.contiguous().cpu().numpy())
        writer.add_tensor(f"{name}.lora_b", change.right.T.contiguous().cpu().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_llama_lora(path: Path) -> tuple[LowRank, ...]:
    """Return the changes of the MLPs that a LoRA adapter file of llama.cpp makes.

    Raises:
        DataError: it is no such file, or changes something else.
    """
    file = open_gguf(path)
    if file.metadata.get("general.type") != "adapter" or file.metadata.get("adapter.type") != "lora":
        raise DataError(f"{path} is no LoRA adapter (general.type is {file.metadata.get('general.type')!r}).")
    names = {stored: which for which, stored in GGUF_MATRIX.items()}
    changes = []
    for name in sorted(n.removesuffix(".lora_a") for n in file.tensors if n.endswith(".lora_a")):
        parts = name.split(".")
        if len(parts) != 4 or parts[2] not in names:
            raise DataError(f"{path} changes {name!r}, which is no matrix of an MLP.")
        a, b = (torch.from_numpy(file.read(f"{name}.lora_{side}")) for side in "ab")
        scale = float(file.metadata["adapter.lora.alpha"]) / a.shape[0]
        changes.append(LowRank(int(parts[1]), a.T, scale * b.T, names[parts[2]]))
    return tuple(changes)
