"""A matrix as a folder of edits keeps it: as it was stored before any edit, and as it is stored with edits on it.

In a quantised folder an edited matrix is stored unquantised, float32, and its module is named among those that are
left out of quantisation; or, where that was asked for, it is quantised anew. Without an edit on it, it is stored as it
was, to the bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from factedit.edit.artefact import Edit, weights_of
from factedit.edit.effects.weights import changed_at, places_of
from factedit.errors import EditError
from factedit.files.checkpoint_weights import check_safetensors
from factedit.files.quantised.kind import Packed
from factedit.files.quantised.table import SAID, Quantised, kind_of, settings_of
from factedit.models.families import Place, split_name
from factedit.safe import parse_json
from factedit.stack.ledger import LedgerMatrix

CONFIG = "config.json"


@dataclass(frozen=True)
class Original:
    """A matrix before any edit.

    Attributes:
        matrix: which it is.
        tensors: what it was stored as, by name.
        packed: how it is quantised, and the folder that says so; None where it is not.
    """

    matrix: LedgerMatrix
    tensors: Mapping[str, Tensor]
    packed: tuple[Packed, Quantised] | None = None

    @property
    def stored(self) -> Tensor:
        """The matrix as a model stores it; of a quantised one its values, float32."""
        if self.packed is None:
            return self.tensors[self.matrix.tensor]
        packed, folder = self.packed
        return folder.values(packed, {role: self.tensors[name] for role, name in packed.parts.items()})

    def edited(self, edits: Sequence[Edit]) -> Tensor:
        """Return the matrix as a model stores it, with the edits on it, in order.

        Raises:
            EditError: another shape, or values that are not finite.
        """
        matrix, effects, new = self.matrix, weights_of(edits), self.stored.clone()
        for place in places_of(effects):
            if is_at(matrix, place):
                part = new[int(split_name(place[1])[1])] if matrix.stacked else new
                weight = part if matrix.stored_in_out else part.T
                weight.copy_(changed_at(place, weight, effects))
        return new.contiguous()

    def written(self, edits: Sequence[Edit]) -> dict[str, Tensor]:
        """Return what is stored with the edits on it, by name.

        Args:
            edits: all edits; those that do not touch it are passed over.

        Raises:
            EditError: see `edited`.
        """
        if self.packed is None or not touches(edits, self.matrix):
            return {name: tensor.contiguous() for name, tensor in self._plain(edits).items()}
        if self.matrix.form == "unquantised":
            return {self.matrix.tensor: self.edited(edits)}
        packed, folder = self.packed
        parts = {role: self.tensors[name] for role, name in packed.parts.items()}
        new = folder.kind.write(packed, parts, self.edited(edits))
        return {packed.parts[role]: tensor.contiguous() for role, tensor in new.items()}

    def _plain(self, edits: Sequence[Edit]) -> Mapping[str, Tensor]:
        return self.tensors if self.packed else {self.matrix.tensor: self.edited(edits)}

    def read_back(self, edits: Sequence[Edit]) -> Tensor:
        """Return the matrix as it will be read from what is written, as a model stores it."""
        written = self.written(edits)
        if self.matrix.tensor in written and (self.packed is None or self.matrix.form == "unquantised"):
            return written[self.matrix.tensor]
        return replace(self, tensors=written).stored


def touches(edits: Sequence[Edit], matrix: LedgerMatrix) -> bool:
    """Return whether an edit changes a matrix."""
    return any(is_at(matrix, place) for place in places_of(weights_of(edits)))


def is_at(matrix: LedgerMatrix, place: Place) -> bool:
    """Return whether a matrix is the one of a place, or the stack of all experts that holds it."""
    kind, expert = split_name(place[1])
    return matrix.layer == place[0] and matrix.matrix == (kind if matrix.stacked and expert.isdecimal() else place[1])


def quantised_matrix(matrix: LedgerMatrix, folder: Quantised, *, requantise: bool) -> LedgerMatrix:
    """Return a matrix with how a quantised folder will store it edited; as it is where it is not quantised.

    Raises:
        EditError: the kind has no way to leave a matrix out of quantisation, or leaves out others with it.
    """
    packed = folder.packed.get(matrix.tensor)
    if packed is None:
        if matrix.tensor not in folder.stored:
            raise EditError(
                f"{folder.what} holds no tensor {matrix.tensor!r}, quantised or not: its files have other names than "
                "the model. Ship the edit as 'peft' or 'merged'."
            )
        return matrix
    others = [name for name, other in folder.packed.items() if other.module == packed.module and name != matrix.tensor]
    if not requantise and (folder.kind.spare is None or others):
        with_it = f", or only together with {', '.join(others)}" if others else ""
        raise EditError(
            f"{matrix.tensor} of {folder.what} cannot be stored unquantised ({folder.kind.name} leaves no single "
            f"matrix out{with_it}). Quantise it anew with --requantise, which says what is lost, or ship the edit as "
            "'peft' (an adapter over the quantised base) or 'merged' (all weights unquantised)."
        )
    form = "requantised" if requantise else "unquantised"
    return matrix.model_copy(update={"parts": tuple(sorted(packed.parts.values())), "form": form})


def read_original(path: Path, matrix: LedgerMatrix, config: Path, what: str) -> Original:
    """Return a matrix from the file that keeps it.

    Args:
        path: of its original.
        matrix: which it is.
        config: the configuration of the folder as it was; read for a quantised matrix alone.
        what: how to name the folder in messages.
    """
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in matrix.parts or (matrix.tensor,)}
    if not matrix.parts:
        return Original(matrix, tensors)
    said = settings_of(parse_json(config.read_bytes())) or {}
    headers = check_safetensors(path)
    kind = kind_of(said, what)
    packed = kind.find(said, headers, tensors.__getitem__)
    return Original(matrix, tensors, (packed[matrix.tensor], Quantised(path.parent, what, kind, said, packed, headers)))


def config_with(original: bytes, matrices: Sequence[LedgerMatrix], edits: Sequence[Edit], folder: Quantised) -> bytes:
    """Return a quantised folder's `config.json`, in which what is stored unquantised is left out of quantisation.

    Args:
        original: as it was before any edit.
        matrices: all that were ever edited.
        edits: that stand.
        folder: says what else is not quantised.
    """
    spared = [m.tensor.removesuffix(".weight") for m in matrices if m.form == "unquantised" and touches(edits, m)]
    if not spared:
        return original
    config: dict[str, Any] = json.loads(original)
    said = settings_of(config) or {}
    spare = kind_of(said, CONFIG).spare
    assert spare is not None  # else no matrix is stored unquantised
    new = spare(said, spared, folder.plain_modules(matrix.tensor for matrix in matrices))
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, dict) else {}):
        part.update({key: new for key in SAID if part.get(key)})
    return (json.dumps(config, indent=2) + "\n").encode()


def kept_share(original: Original, edits: Sequence[Edit]) -> tuple[float, float]:
    """Return how much of a change what is written holds.

    Args:
        original: the matrix.
        edits: that are on it.

    Returns:
        ⟨stored change, ΔW⟩ / ‖ΔW‖² (1: all of it), and ‖stored change − ΔW‖ / ‖ΔW‖ (0: nothing else).
    """
    before = original.stored.double()
    wanted, written = original.edited(edits).double() - before, original.read_back(edits).double() - before
    size = wanted.norm().clamp(min=torch.finfo(torch.float64).tiny)
    return float((written * wanted).sum() / size**2), float((written - wanted).norm() / size)
