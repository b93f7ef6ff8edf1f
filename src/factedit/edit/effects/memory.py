"""A memory beside a matrix: a fact's residual is added where a key is like the fact's own (after NeuralDB, ICLR 2026).

value += Σ_j r_j over the rows j with cos(key, k_j) > γ. Rows do not know of each other, and where no gate opens nothing
is added, to the bit: facts are put in and taken out without computing the others again. The weights are as they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from factedit.edit.effects.beside_matrix import BesideFields, BesideMatrix
from factedit.engine.half import at_least_float32
from factedit.errors import EditError
from factedit.models.families import MatrixName
from factedit.models.matrix import MatrixHook


class MemoryFields(BesideFields):
    """What `edit.json` tells of a memory beside where it stands.

    Attributes:
        facts: how many rows it has.
        gamma: the cosine above which a row is added.
    """

    facts: int = Field(ge=1)
    gamma: float = Field(gt=0, lt=1)


@dataclass(frozen=True, eq=False)
class Memory(BesideMatrix):
    """Keys and residuals of facts beside one matrix.

    Attributes:
        layer: which layer's matrix.
        keys: k_j `[facts, d_in]`; a row of zeros is like nothing.
        residuals: r_j `[facts, d_out]`.
        gamma: γ, between 0 and 1.
        matrix: which matrix of the MLP: `out`, `in` or `gate`.
    """

    kind: ClassVar[str] = "memory"
    layer: int
    keys: Tensor = field(repr=False)
    residuals: Tensor = field(repr=False)
    gamma: float
    matrix: MatrixName = "out"

    @property
    def outputs(self) -> Tensor:
        """The residuals."""
        return self.residuals

    def plus(self, other: Memory) -> Memory:
        """Return the memory with the rows of another after its own; see `without`.

        Raises:
            EditError: it stands beside another matrix, or opens at another cosine.
        """
        if (self.layer, self.matrix, self.gamma) != (other.layer, other.matrix, other.gamma):
            raise EditError(
                f"A memory of layer {other.layer}, matrix {other.matrix!r}, γ {other.gamma} cannot be put into one of "
                f"layer {self.layer}, matrix {self.matrix!r}, γ {self.gamma}: keep them as two edits."
            )
        keys, residuals = torch.cat([self.keys, other.keys]), torch.cat([self.residuals, other.residuals])
        return Memory(self.layer, keys, residuals, self.gamma, self.matrix)

    def without(self, fact: int) -> Memory:
        """Return the memory without one of its rows, the others unchanged.

        Raises:
            EditError: it has no such row, or no other.
        """
        rest = [n for n in range(len(self.keys)) if n != fact]
        if not rest or len(rest) == len(self.keys):
            raise EditError(f"Fact {fact} was to be taken out of a memory of {len(self.keys)}: give one, leave one.")
        return Memory(self.layer, self.keys[rest], self.residuals[rest], self.gamma, self.matrix)

    @classmethod
    def hook(cls, rows: Sequence[Sequence[Self]], weight: Tensor) -> MatrixHook:
        """Return what adds in each row what its own memories add; those of a row stand side by side, padded with
        zeros.
        """
        return _adding(rows, weight)

    def fields(self) -> dict[str, Any]:
        """Return where, of which shape, how many facts and where gates open."""
        return {**self._where(), "facts": len(self.keys), "gamma": self.gamma}

    def tensors(self) -> dict[str, Tensor]:
        """Return keys and residuals, float32."""
        return {"keys": self.keys.float().contiguous(), "residuals": self.residuals.float().contiguous()}

    @classmethod
    def shapes(cls, fields: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Return those of keys and residuals."""
        stored = MemoryFields(**fields)
        return {"keys": (stored.facts, stored.shape[0]), "residuals": (stored.facts, stored.shape[1])}

    @classmethod
    def read(cls, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Return the memory back from what is stored."""
        stored = MemoryFields(**fields)
        return cls(stored.layer, tensors["keys"], tensors["residuals"], stored.gamma, stored.matrix)


def _adding(rows: Sequence[Sequence[Memory]], weight: Tensor) -> MatrixHook:
    """Return the hook that adds to row n's values what its memories add; of one row, to all."""
    wide, facts = at_least_float32(weight.dtype), max(sum(len(e.keys) for e in row) for row in rows)
    keys = weight.new_zeros(len(rows), facts, weight.shape[0], dtype=wide)
    residuals = weight.new_zeros(len(rows), facts, weight.shape[1], dtype=wide)
    gammas = weight.new_ones(len(rows), 1, facts, dtype=wide)
    for n, row in enumerate(rows):
        at = 0
        for effect in row:
            part = slice(at, at + len(effect.keys))
            keys[n, part], residuals[n, part], gammas[n, 0, part] = effect.keys, effect.residuals, effect.gamma
            at = part.stop
    directions = torch.nn.functional.normalize(keys, dim=-1).transpose(1, 2)

    def add(key: Tensor, value: Tensor) -> Tensor:
        cosines = torch.nn.functional.normalize(key.to(wide), dim=-1) @ directions
        return (value.to(wide) + (cosines > gammas).to(wide) @ residuals).to(value.dtype)

    return add
