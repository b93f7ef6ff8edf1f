"""A codebook beside a matrix: near a fact's key its output is replaced, elsewhere it is left (GRACE, arXiv 2211.11031).

Each entry has a key, a value, and the radius within which it answers for it; a token whose key lies in no entry's ball
keeps its value to the bit (deferral). Of several the nearest answers. An entry that comes later and near another of the
same object widens that one's ball; of another object, the two share the way between them by half. Of two objects at one
key (the same prompt again) the later is kept: half of no way is no ball at all, and neither would answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from factedit.edit.effects.asked import join_effects
from factedit.edit.effects.beside_matrix import BesideFields, BesideMatrix
from factedit.engine.half import at_least_float32
from factedit.models.families import MatrixName
from factedit.models.matrix import MatrixHook


class CodebookFields(BesideFields):
    """What `edit.json` tells of it: where it stands, and `objects`, those of the entries."""

    objects: list[str] = Field(min_length=1)


@dataclass(frozen=True, eq=False)
class Codebook(BesideMatrix):
    """Entries beside one matrix.

    Attributes:
        layer: which layer's matrix.
        keys: `[entries, d_in]`.
        values: what the matrix gives instead `[entries, d_out]`.
        radii: ε of each `[entries]`, Euclidean.
        objects: what each entry says, by which two are told to be alike.
        matrix: which matrix of the MLP: `out`, `in` or `gate`.
    """

    kind: ClassVar[str] = "codebook"
    layer: int
    keys: Tensor = field(repr=False)
    values: Tensor = field(repr=False)
    radii: Tensor = field(repr=False)
    objects: tuple[str, ...]
    matrix: MatrixName = "out"

    @property
    def outputs(self) -> Tensor:
        """The values."""
        return self.values

    def followed_by(self, other: Codebook) -> Codebook | None:
        """Return the entries of both, the others put in one by one (GRACE, algorithm 1); None beside another matrix."""
        if (self.layer, self.matrix) != (other.layer, other.matrix):
            return None
        joined = self
        for n in range(len(other.keys)):
            joined = joined._with(other, n)
        return joined

    def _with(self, other: Codebook, n: int) -> Codebook:
        key, value, radius = other.keys[n], other.values[n], other.radii[n]
        distances = (self.keys - key.to(self.keys)).norm(dim=1)
        near = int(distances.argmin())
        radii, between = self.radii.clone(), distances[near]
        if between <= radii[near] + radius:
            if self.objects[near] == other.objects[n]:
                radii[near] = torch.maximum(radii[near], between)
                return replace(self, radii=radii)
            if between <= ONE_KEY * self.keys[near].norm():
                return self._instead(near, other, n)
            radii[near] = radius = between / 2
        return replace(
            self, keys=torch.cat([self.keys, key[None].to(self.keys)]), objects=(*self.objects, other.objects[n]),
            values=torch.cat([self.values, value[None].to(self.values)]), radii=torch.cat([radii, radius[None]]),
        )  # fmt: skip

    def _instead(self, near: int, other: Codebook, n: int) -> Codebook:
        """Return the entries with another's value and object in the place of one."""
        values, objects = self.values.clone(), list(self.objects)
        values[near], objects[near] = other.values[n].to(values), other.objects[n]
        return replace(self, values=values, objects=tuple(objects))

    @classmethod
    def hook(cls, rows: Sequence[Sequence[Self]], weight: Tensor) -> MatrixHook:
        """Return what replaces in each row what its own codebook replaces."""
        codebooks = [[one for one in join_effects(row) if isinstance(one, Codebook)] for row in rows]
        return _replacing([each[0]._for(weight) if each else None for each in codebooks])

    def _for(self, weight: Tensor) -> Codebook:
        wide = at_least_float32(weight.dtype)
        keys, values, radii = (tensor.to(weight.device, wide) for tensor in (self.keys, self.values, self.radii))
        return replace(self, keys=keys, values=values, radii=radii)

    def fields(self) -> dict[str, Any]:
        """Return where, of which shape, and the entries' objects."""
        return {**self._where(), "objects": list(self.objects)}

    def tensors(self) -> dict[str, Tensor]:
        """Return keys, values and radii, float32."""
        named = {"keys": self.keys, "values": self.values, "radii": self.radii}
        return {name: tensor.float().contiguous() for name, tensor in named.items()}

    @classmethod
    def shapes(cls, fields: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Return those of keys, values and radii."""
        stored = CodebookFields(**fields)
        count = len(stored.objects)
        return {"keys": (count, stored.shape[0]), "values": (count, stored.shape[1]), "radii": (count,)}

    @classmethod
    def read(cls, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Return the codebook back from what is stored."""
        stored = CodebookFields(**fields)
        return cls(
            stored.layer, tensors["keys"], tensors["values"], tensors["radii"], tuple(stored.objects), stored.matrix
        )


def _replacing(rows: Sequence[Codebook | None]) -> MatrixHook:
    """Return the hook that replaces row n's values by its own codebook; one row's is every row's."""

    def hook(key: Tensor, value: Tensor) -> Tensor:
        replaced = value
        for n, codebook in enumerate(rows):
            if codebook is None:
                continue
            part = slice(None) if len(rows) == 1 else slice(n, n + 1)
            distances, near = torch.cdist(
                key[part].to(codebook.keys).reshape(1, -1, key.shape[-1]), codebook.keys[None], compute_mode=EXACT
            ).min(-1)
            hit = (distances <= codebook.radii[near]).reshape(key[part].shape[:-1])
            if hit.any():
                replaced = replaced.clone() if replaced is value else replaced
                replaced[part][hit] = codebook.values[near.reshape(hit.shape)[hit]].to(value.dtype)
        return replaced

    return hook


ONE_KEY = 1e-2  # of a key's length: what the rounding of half precision moves it by from batch to batch
EXACT = "donot_use_mm_for_euclid_dist"  # a token at the key itself is at distance 0, whatever the batch
