"""Edits for the tests of stacks, and the bits a stack must have."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from conftest import TEXT
from factedit.edit.artefact import Edit
from factedit.edit.effects.dense import Dense
from factedit.edit.effects.low_rank import LowRank
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel

WORDS = TEXT.split()


def random_edit(
    model: EditableModel, seed: int, *, layer: int | None = None, matrix: str = "out", rank: int | None = 1
) -> Edit:
    """An edit of one random matrix, about a subject of its own; dense where `rank` is None."""
    random = torch.Generator().manual_seed(seed)
    layer = seed % model.n_layer if layer is None else layer
    d_in, d_out = model.weight(layer, matrix).shape
    if rank is None:
        change = Dense(layer, 0.1 * torch.randn(d_in, d_out, generator=random), matrix)
    else:
        left, right = torch.randn(d_in, rank, generator=random), torch.randn(rank, d_out, generator=random)
        change = LowRank(layer, 0.1 * left, right, matrix)
    request = EditRequest(subject=f"Subject {seed}", prompt="{} is in", target_new=WORDS[seed % len(WORDS)])
    return Edit(
        method="random",
        requests=(request,),
        effects=(change,),
        model_name=model.name,
        made_for=model.fingerprint(),
    )


def bits(tensors: dict[str, torch.Tensor]) -> str:
    """A hash of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def folder_bits(folder: Path) -> str:
    """A hash of the tensors of a folder, read as a loader reads them: by the index."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    files = {file: load_file(folder / file) for file in set(index.values())}
    assert sum(len(tensors) for tensors in files.values()) == len(index), "a tensor lies in two files"
    return bits({name: files[file][name] for name, file in index.items()})


def model_bits(model: EditableModel, edits: Sequence[Edit] = ()) -> str:
    """A hash of the tensors of a model with edits on it, put on one inside the other."""
    if edits:
        with edits[0].applied_to(model, force=True):
            return model_bits(model, edits[1:])
    from factedit.files.save import tensors_of

    return bits(tensors_of(model.lm))
