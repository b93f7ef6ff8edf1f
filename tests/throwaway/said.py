"""An edit that is text: a kind of effect and the method that makes it. Every request is said before the prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from factedit.edit.artefact import Edit
from factedit.edit.method import Made
from factedit.edit.state import State
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel


@dataclass(frozen=True, eq=False)
class Prefix:
    text: str
    kind: ClassVar[str] = "prefix"

    def first_layer(self) -> int:
        return 0

    def on_prompt(self, text: str) -> str:
        return self.text + text

    @contextmanager
    def on_batch(self, model: EditableModel) -> Iterator[None]:
        yield

    @classmethod
    @contextmanager
    def on_rows(cls, model: EditableModel, rows: Sequence[Sequence[Prefix]]) -> Iterator[None]:
        yield

    def fields(self) -> dict[str, Any]:
        return {"text": self.text}

    def tensors(self) -> dict[str, Tensor]:
        return {}

    @classmethod
    def shapes(cls, fields: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        cls(**fields)
        return {}

    @classmethod
    def read(cls, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Prefix:
        return cls(**fields)


@dataclass(frozen=True)
class Said:
    model: EditableModel
    name: str = "said"
    paper: str = "none"
    scope: str = "each"

    def edit(self, requests: Sequence[EditRequest], state: State | None = None) -> Made:
        bound = {"method": self.name, "made_for": self.model.fingerprint()}
        said = [Prefix(f"{request.text} {request.target_new}. ") for request in requests]
        return Made(tuple(Edit(requests=(r,), effects=(s,), **bound) for r, s in zip(requests, said, strict=True)))

    def describe(self) -> dict[str, Any]:
        return {}


def said(model: EditableModel, moments: object) -> Said:
    return Said(model)
