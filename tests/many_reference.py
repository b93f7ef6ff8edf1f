"""The published programs' numbers for many facts, read into the project's terms."""

from __future__ import annotations

import json
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from factedit.stats.second_moment import SecondMoment
from factedit.stats.store import read_moment

GOLDEN = Path(__file__).parent / "golden"


@cache
def reference_model() -> EditableModel:
    """The tiny GPT-2 that the programs edited."""
    return load(str(GOLDEN / "tiny-gpt2"))


@cache
def second_moment(layer: int) -> SecondMoment:
    """C of one of its layers."""
    return read_moment(GOLDEN / "many" / "second_moments" / "tiny-gpt2" / f"layer{layer}.safetensors")


class Reference:
    """What one program computed.

    Args:
        method: the folder's name.
    """

    def __init__(self, method: str) -> None:
        folder = GOLDEN / "many" / method / "tiny-gpt2"
        self.json: dict[str, Any] = json.loads((folder / "expected.json").read_text())
        self.tensors: dict[str, Tensor] = load_file(folder / "expected.safetensors")
        self.settings: dict[str, Any] = self.json.get("hparams", {})
        self.layers: list[int] = self.json.get("layers", [])

    @cached_property
    def requests(self) -> list[EditRequest]:
        return [EditRequest(**fact) for fact in self.json["facts"]]

    @property
    def batches(self) -> list[list[int]]:
        return self.json.get("batches") or self.json.get("turns_of") or [list(range(len(self.requests)))]

    @property
    def steps(self) -> list[dict[str, Any]]:
        """Per batch what the program told."""
        return self.json.get("steps") or self.json.get("turns") or [self.json]

    @property
    def contexts(self) -> list[list[str]]:
        return self.json["context_types"]

    def of(self, batch: int, name: str) -> Tensor:
        """A tensor of a batch; the batches of a method of one batch have no number."""
        return self.tensors.get(f"{batch}.{name}", self.tensors.get(name, torch.empty(0)))

    def rows(self, batch: int, name: str) -> Tensor:
        """Tensors with a number at the end, one row each."""
        count = len(self.batches[batch])
        return torch.stack([self.of(batch, f"{name}.{n}") for n in range(count)])

    def update(self, batch: int, layer: int) -> Tensor:
        """ΔW `[d_mlp, d_model]`; empty where it was not kept."""
        whole, left = self.of(batch, f"delta.{layer}"), self.of(batch, f"left.{layer}")
        return left @ self.of(batch, f"right.{layer}").T if len(left) else whole

    def logits(self, model: EditableModel) -> Tensor:
        """What `logits_pre` and `logits_post` hold, of a model."""
        with torch.no_grad():
            encoded = [model.tokenizer(text)["input_ids"] for text in self.json["probe_prompts"]]
            return torch.stack([model.lm(input_ids=torch.tensor([ids])).logits[0, -1] for ids in encoded])


def distance(found: Tensor, expected: Tensor) -> float:
    """The relative Frobenius distance."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return float((found.double() - expected.double()).norm() / expected.double().norm())
