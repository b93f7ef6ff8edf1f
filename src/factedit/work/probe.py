"""Find a row for the architecture of a model's folder, and prove it; or say which proof fails and by how much."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from factedit.engine.resumed import prove_resumed
from factedit.errors import ModelError, UnknownName, UnsupportedModel
from factedit.models.adapter import EditableModel
from factedit.models.families import Family
from factedit.models.family_table import family_of, model_types_of
from factedit.models.load import read_files
from factedit.models.propose import propose


@dataclass(frozen=True)
class ProvenFamily:
    """A row that is proven on a model.

    Attributes:
        row: the row.
        is_known: the table has it; else it was found by shape and probing.
        dense, experts: how many layers have one MLP that can be edited; how many have experts that can.
        layers: how many there are.
        resumed_off: the largest relative difference of logits, resumed at every layer, from whole passes.
    """

    row: Family
    is_known: bool
    dense: int
    experts: int
    layers: int
    resumed_off: float

    def as_json(self) -> dict[str, Any]:
        """Return what was found."""
        return {
            "row": row_text(self.row), "is_known": self.is_known, "layers": self.layers, "dense": self.dense,
            "experts": self.experts, "resumed_off": self.resumed_off,
        }  # fmt: skip


def probe(source: str) -> ProvenFamily:
    """Prove the row of a model, from the table or proposed by shape and probing.

    Args:
        source: an embedded name, a folder, a .gguf file, or a hub id.

    Raises:
        ModelError: nothing usable there.
        UnsupportedModel: no row is proven; which proof failed, with its figures, for each row that was tried.
    """
    lm, tokenizer = read_files(source)
    failed: list[str] = []
    for is_known in (True, False):
        try:
            row = family_of(*model_types_of(lm.config.to_dict())) if is_known else propose(lm)
            model = EditableModel(lm, tokenizer, name=lm.config.model_type, family=row)
            return _probe(model, is_known)
        except UnknownName:
            continue
        except ModelError as error:
            failed.append(f"{'The row of the table' if is_known else 'A row by shape and probing'}: {error}")
    raise UnsupportedModel(f"{source} cannot be read. {' '.join(failed)}")


def _probe(model: EditableModel, is_known: bool) -> ProvenFamily:
    off = prove_resumed(model)
    dense = sum(bool(places.matrices) for places in model.places)
    experts = sum(model.mixture(layer) is not None for layer in range(model.n_layer))
    return ProvenFamily(model.family, is_known, dense, experts, model.n_layer, off)


def row_text(row: Family) -> str:
    """Return a row as it stands in the table: what is not as in most architectures."""
    values = [(field.name, getattr(row, field.name)) for field in fields(row)]
    defaults = Family(name=row.name)
    said = [f"{name}={value!r}" for name, value in values if name == "name" or value != getattr(defaults, name)]
    return f"Family({', '.join(said)})"
