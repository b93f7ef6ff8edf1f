"""MEND (arXiv 2110.11309): three methods that differ in what their network was trained on.

`mend` on general text that the model itself continues, `mend-zsre` on zsRE questions, `mend-cf` on CounterFact.
The network is in `network_mend.py`; `factedit train mend MODEL --data general|zsre|counterfact` trains it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factedit.edit.hypernetwork import Hypernetwork, make
from factedit.edit.method import MomentSource
from factedit.models.adapter import EditableModel

PAPER = "arXiv 2110.11309"


def mend(
    model: EditableModel, _moments: MomentSource, *, trained: str | Path | None = None, **changes: Any
) -> Hypernetwork:
    """`mend` for a model; `trained` names the folder of its network, or one that holds it."""
    return make("mend", PAPER, model, trained, changes)


def mend_zsre(
    model: EditableModel, _moments: MomentSource, *, trained: str | Path | None = None, **changes: Any
) -> Hypernetwork:
    """`mend-zsre` for a model; `trained` as for `mend`."""
    return make("mend-zsre", PAPER, model, trained, changes)


def mend_cf(
    model: EditableModel, _moments: MomentSource, *, trained: str | Path | None = None, **changes: Any
) -> Hypernetwork:
    """`mend-cf` for a model; `trained` as for `mend`."""
    return make("mend-cf", PAPER, model, trained, changes)
