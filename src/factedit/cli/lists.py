"""`factedit methods`, `models`, `datasets`: what there is, from the registries."""

from __future__ import annotations

from rich.table import Table

from factedit.cli.common import Json, out, write_json


def methods(json: Json = None) -> None:
    """The editing methods."""
    from factedit.edit.method import METHODS

    table = Table("method", "what it does", "source")
    for name, row in METHODS.items():
        table.add_row(name, row.what, row.paper)
    out.print(table)
    write_json(json, {name: {"what": row.what, "source": row.paper} for name, row in METHODS.items()})


def models(json: Json = None) -> None:
    """The embedded models, the architectures, and the presets."""
    from factedit.edit.presets import PRESETS
    from factedit.files.embedded import EMBEDDED
    from factedit.models.families import FAMILIES

    table = Table("embedded model", "package", "licence")
    for model in EMBEDDED.values():
        table.add_row(model.name, model.package, model.licence)
    out.print(table)
    editable = [name for name, row in FAMILIES.items() if not row.experts]
    traced = [name for name, row in FAMILIES.items() if row.experts]
    out.print(f"architectures that can be edited: {', '.join(editable)}")
    out.print(f"architectures that can be traced: {', '.join(traced)}")
    presets = Table("preset for", "layer", "settings", "source")
    for preset in PRESETS:
        rest = ", ".join(f"{k} {v}" for k, v in preset.settings.items() if k != "layer")
        presets.add_row(preset.model, str(preset.settings["layer"]), rest or "published defaults", preset.source)
    out.print(presets)
    write_json(json, {"embedded": list(EMBEDDED), "editable": editable, "traceable": traced})


def datasets(json: Json = None) -> None:
    """The data sets and where they come from."""
    from factedit.data.registry import DATASETS

    table = Table("data set", "what", "source")
    for row in DATASETS.values():
        table.add_row(row.name, row.what, row.source)
    out.print(table)
    write_json(json, {row.name: {"what": row.what, "source": row.source} for row in DATASETS.values()})


COMMANDS = {"methods": methods, "models": models, "datasets": datasets}
