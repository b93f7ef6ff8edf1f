"""What there is, from the registries: methods, models and presets, data sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from factedit.data.registry import DATASETS
from factedit.edit.method import METHODS
from factedit.edit.presets import PRESETS, Preset
from factedit.files.embedded import EMBEDDED, EmbeddedModel
from factedit.models.families import FAMILIES


@dataclass(frozen=True)
class Models:
    """What can be loaded and edited.

    Attributes:
        embedded: the models that come as packages.
        editable, traceable: architectures that can be edited and traced; that can be traced only.
        presets: settings found by a model's shape.
    """

    embedded: tuple[EmbeddedModel, ...]
    editable: tuple[str, ...]
    traceable: tuple[str, ...]
    presets: tuple[Preset, ...]

    def as_json(self) -> dict[str, Any]:
        """The names."""
        return {
            "embedded": [model.name for model in self.embedded],
            "editable": list(self.editable),
            "traceable": list(self.traceable),
        }


def list_methods() -> dict[str, dict[str, str]]:
    """Per editing method what it does and where it is from."""
    return {name: {"what": row.what, "source": row.paper} for name, row in METHODS.items()}


def list_models() -> Models:
    """The embedded models, the architectures, and the presets."""
    editable = tuple(name for name, row in FAMILIES.items() if not row.experts)
    traceable = tuple(name for name, row in FAMILIES.items() if row.experts)
    return Models(tuple(EMBEDDED.values()), editable, traceable, tuple(PRESETS))


def list_datasets() -> dict[str, dict[str, str]]:
    """Per data set what it holds and where it is from."""
    return {row.name: {"what": row.what, "source": row.source} for row in DATASETS.values()}
