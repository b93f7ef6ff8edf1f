"""What is asked of locating, looked at before the model is loaded: by the command and by its `--dry-run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from factedit.data.records import RecordSet
from factedit.data.registry import load_facts, select_of
from factedit.errors import UsageError
from factedit.facts import FactRecord
from factedit.models.adapter import EditableModel
from factedit.trace.corrupt import parse_noise
from factedit.trace.sweep import check_kinds
from factedit.work.methods import named_methods
from factedit.work.settings import read_settings

WINDOWS = (1, 3, 5, 10)


class Locating(NamedTuple):
    """What is asked of `locate_facts`, once it was looked at.

    Attributes:
        methods: names.
        settings: of methods by name.
        windows: in order.
        layers: as asked; None is all.
        data: the set.
        records: that were drawn and have a `target_true`.
    """

    methods: list[str]
    settings: Mapping[str, dict[str, Any]]
    windows: tuple[int, ...]
    layers: Sequence[int] | None
    data: RecordSet[FactRecord]
    records: Sequence[FactRecord]

    def layers_of(self, model: EditableModel) -> tuple[int, ...]:
        """Return the layers of a model that are compared."""
        every = range(model.n_layer) if self.layers is None else map(model.check_layer, self.layers)
        return tuple(every)


def asked_to_locate(
    facts: str,
    *,
    methods: str,
    records: int,
    layers: Sequence[int] | None,
    windows: Sequence[int],
    kind: str,
    noise: str,
    seed: int,
    settings: Sequence[str],
) -> Locating:
    """Return what is asked of `locate_facts`; see there.

    Raises:
        UsageError, DataError: what can be refused before the model is loaded.
    """
    named = named_methods(methods)
    given = read_settings(settings, named)
    fixed = [name for name in named if {"layer", "layers"} & given.get(name, {}).keys()]
    if fixed:
        raise UsageError(f"{fixed[0]} is put at every layer here: leave its layer out of the settings (--layers).")
    parse_noise(noise)
    check_kinds([kind])
    widths = (1,) if kind == "hidden" else tuple(sorted(set(windows)))
    if not widths or min(widths) < 1:
        raise UsageError(f"The windows {list(widths)} must be numbers of layers, at least 1.")
    if layers is not None and len(set(layers)) < max(1, len(layers)):
        raise UsageError(f"The layers {list(layers)} must be one or more, each once.")
    data = load_facts(facts)
    count = min(records, len(select_of(data)))
    chosen = [record for record in select_of(data, limit=count, seed=seed) if record.request.target_true]
    if not chosen:
        raise UsageError(f"No fact of {data.name} has a target_true, which tracing restores. Choose another set.")
    return Locating(named, given, widths, layers, data, chosen)
