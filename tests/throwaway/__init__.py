"""What strangers' packages would hold: a method, an effect, a benchmark, a metric, one file each."""

from __future__ import annotations

from pathlib import Path

import pytest

ALL = {
    "two-layers": ("factedit.methods", "throwaway.two_layers:two_layers"),
    "said": ("factedit.methods", "throwaway.said:said"),
    "prefix": ("factedit.effects", "throwaway.said:Prefix"),
    "remembered": ("factedit.methods", "throwaway.remembered:remembered"),
    "keyed": ("factedit.effects", "throwaway.remembered:Memory"),
    "floor": ("factedit.benchmarks", "throwaway.floor:FLOOR"),
    "capitals": ("factedit.metrics", "throwaway.capitals:Capitals"),
    "broken": ("factedit.metrics", "throwaway.broken:Broken"),
}


def install(folder: Path, patch: pytest.MonkeyPatch, *names: str) -> None:
    """Make these entry points known as an installed package does, until the patch is undone."""
    for name in names:
        group, target = ALL[name]
        about = folder / f"a_{name.replace('-', '_')}-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: a-{name}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[{group}]\n{name} = {target}\n")
    patch.syspath_prepend(str(folder))
