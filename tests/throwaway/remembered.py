"""An edit that is a memory beside a matrix: a kind of effect and the method that makes it.

Where a layer's key points nearly where a stored one does, the matrix gives the stored value; no weight is touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from factedit.edit.artefact import Edit
from factedit.edit.method import Made
from factedit.edit.state import State
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.stats.subjects import subject_keys


@dataclass(frozen=True, eq=False)
class Memory:
    layer: int
    key: Tensor = field(repr=False)
    value: Tensor = field(repr=False)
    near: float = 0.999
    kind: ClassVar[str] = "keyed"

    def first_layer(self) -> int:
        return self.layer

    def on_prompt(self, text: str) -> str:
        return text

    def given(self, key: Tensor, value: Tensor) -> Tensor:
        close = torch.nn.functional.cosine_similarity(key, self.key, dim=-1) > self.near
        return torch.where(close[..., None], self.value, value)

    @contextmanager
    def on_batch(self, model: EditableModel) -> Iterator[None]:
        with model.on_matrix(self.layer, self.given):
            yield

    @classmethod
    @contextmanager
    def on_rows(cls, model: EditableModel, rows: Sequence[Sequence[Memory]]) -> Iterator[None]:
        layers = {memory.layer for row in rows for memory in row}
        assert len(layers) == 1, "enough for a test"

        def each(key: Tensor, value: Tensor) -> Tensor:
            found = value.clone()
            for n, row in enumerate(rows):
                for memory in row:
                    found[n] = memory.given(key[n], found[n])
            return found

        with model.on_matrix(layers.pop(), each):
            yield

    def fields(self) -> dict[str, Any]:
        return {"layer": self.layer, "widths": [len(self.key), len(self.value)], "near": self.near}

    def tensors(self) -> dict[str, Tensor]:
        return {"key": self.key, "value": self.value}

    @classmethod
    def shapes(cls, fields: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        key, value = fields["widths"]
        return {"key": (key,), "value": (value,)}

    @classmethod
    def read(cls, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Memory:
        return cls(fields["layer"], tensors["key"], tensors["value"], fields["near"])


@dataclass(frozen=True)
class Remembered:
    model: EditableModel
    name: str = "remembered"
    paper: str = "none"
    scope: str = "each"

    def edit(self, requests: Sequence[EditRequest], state: State | None = None) -> Made:
        layer, made_for = self.model.n_layer - 2, self.model.fingerprint()
        keys = subject_keys(self.model, layer, [(request.prompt, request.subject) for request in requests])
        random = torch.Generator().manual_seed(1)
        values = 3 * torch.randn(len(requests), self.model.d_model, generator=random)
        return Made(
            tuple(
                Edit(method=self.name, requests=(request,), effects=(Memory(layer, key, value),), made_for=made_for)
                for request, key, value in zip(requests, keys.clone(), values, strict=True)
            )
        )

    def describe(self) -> dict[str, Any]:
        return {}


def remembered(model: EditableModel, moments: object) -> Remembered:
    return Remembered(model)
