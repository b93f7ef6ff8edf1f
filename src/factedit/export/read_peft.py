"""PEFT LoRA adapters of others: read where they are a product for matrices of MLPs and nothing else, else refused.

Formats: PEFT's `adapter_config.json` and `adapter_model.safetensors` (LoraConfig).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from factedit.edit.effects.low_rank import LowRank
from factedit.errors import DataError, UnsafeFile, first_line, shown
from factedit.export.lora import CONFIG, WEIGHTS
from factedit.files.checkpoint_checks import PICKLES
from factedit.models.adapter import EditableModel
from factedit.models.families import split_name
from factedit.paths import inside

_NEUTRAL = {  # settings of LoraConfig that do not change what the adapter computes
    "peft_type", "task_type", "base_model_name_or_path", "revision", "peft_version", "inference_mode", "auto_mapping",
    "r", "lora_alpha", "lora_dropout", "fan_in_fan_out", "target_modules", "exclude_modules", "megatron_core",
    "qalora_group_size", "runtime_config", "layers_pattern",
}  # fmt: skip


def read_peft(model: EditableModel, folder: Path) -> tuple[LowRank, ...]:
    """Return the changes that a PEFT LoRA adapter makes to the MLPs of a model.

    Raises:
        UnsafeFile: its weights are a pickle, or a link that leaves the folder.
        DataError: no adapter, a kind of adapter or a place that is not read.
    """
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES) if folder.is_dir() else []
    if pickles:
        raise UnsafeFile(
            f"The adapter {folder} holds a pickle ({pickles[0]}), and loading one can run code. "
            f"Get it as {WEIGHTS}, or save it as one where you trust the file."
        )
    for name in (CONFIG, WEIGHTS):
        if (folder / name).is_symlink():
            raise UnsafeFile(f"{folder / name} is a link to {(folder / name).resolve()}. Put the file itself there.")
    try:
        config = json.loads(inside(folder, CONFIG).read_text(encoding="utf-8"))
        tensors = load_tensors(inside(folder, WEIGHTS).read_bytes())
        scale = float(config["lora_alpha"]) / int(config["r"])
        if not math.isfinite(scale) or int(config["r"]) < 1:
            raise ValueError(f"r {shown(config['r'])}, lora_alpha {shown(config['lora_alpha'])}")
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError, SafetensorError) as error:
        raise DataError(
            f"{folder} does not hold a whole LoRA adapter ({type(error).__name__}: {first_line(error)})."
        ) from error
    odd = _odd_settings(config)
    if odd:
        raise DataError(
            f"The adapter {folder} is of a kind that is not read ({odd}). "
            "Merge it into its base model with peft, and give that."
        )
    return _placed(model, folder, tensors, scale, int(config["r"]))


def _odd_settings(config: dict[str, Any]) -> str:
    """The first setting that changes more than W by scale · B A, or could, in words; nothing where there is none.

    A setting that is not known here counts unless it is off: another version of peft may have made it mean anything.
    """
    if config.get("peft_type") != "LORA":
        return f"peft_type {shown(config.get('peft_type'))}"
    for name, value in config.items():
        off = value is None or value is False or value in ("", [], {})
        if name == "bias":
            off = value == "none"
        elif name == "init_lora_weights":  # PiSSA, OLoRA, LoftQ and CorDA change the base's own weights too
            off = value in (True, False, None, "gaussian")
        if not off and name not in _NEUTRAL:
            return f"{shown(name)}: {shown(value)}"
    return ""


def _placed(
    model: EditableModel, folder: Path, tensors: dict[str, Tensor], scale: float, rank: int
) -> tuple[LowRank, ...]:
    known = {
        f"base_model.model.{matrix.name.removesuffix('.weight')}": matrix.place
        for layer in range(model.n_layer) for matrix in model.matrices_of(layer)
        if not split_name(matrix.place[1])[1].isdecimal()
    }  # fmt: skip
    halves = {f"{module}.lora_{side}.weight": module for module in known for side in "AB"}
    unread = [name for name in tensors if name not in halves]
    if unread or not tensors:
        what = f"changes {shown(unread[0], 120)}" if unread else "changes nothing"
        raise DataError(
            f"The adapter {folder} {what}, which is no matrix of an MLP of {model.name}, or no factor of one. "
            "Merge it into its base model with peft, and give that."
        )
    changes = []
    for module in sorted({halves[name] for name in tensors}):
        a, b = (tensors.get(f"{module}.lora_{side}.weight") for side in "AB")
        d_in, d_out = model.matrix(*known[module]).shape
        whole = a is not None and b is not None and a.is_floating_point() and b.is_floating_point()
        if a is None or b is None or not whole or a.shape != (rank, d_in) or b.shape != (d_out, rank):
            shapes = [None if half is None else (*half.shape, str(half.dtype)) for half in (a, b)]
            raise DataError(
                f"The adapter {folder} has for {module.removeprefix('base_model.model.')} the halves "
                f"{shown(shapes, 120)}; [{rank}, {d_in}] and [{d_out}, {rank}] are needed. Get it again, whole."
            )
        if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
            raise DataError(f"The adapter {folder} holds values that are not finite. Get a sound copy.")
        changes.append(LowRank(known[module][0], a.float().T, scale * b.float().T, known[module][1]))
    return tuple(changes)
