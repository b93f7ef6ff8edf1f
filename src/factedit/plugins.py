"""What other packages add: methods, effects, benchmarks, metrics, each under an entry point group of its own."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points


def outside(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group by name, e.g. of `"factedit.methods"`; nothing is loaded yet."""
    return {point.name: point for point in entry_points(group=group)}
