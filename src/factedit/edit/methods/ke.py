"""KnowledgeEditor (arXiv 2104.08164): three methods that differ in what their network was trained on.

`ke` on general text that the model itself continues, `ke-zsre` on zsRE questions, `ke-cf` on CounterFact.
The network is in `network_ke.py`; `factedit train ke MODEL --data general|zsre|counterfact` trains it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factedit.edit.hypernetwork import Hypernetwork, make
from factedit.edit.method import MomentSource
from factedit.models.adapter import EditableModel

PAPER = "arXiv 2104.08164"


def ke(
    model: EditableModel, _moments: MomentSource, *, trained: str | Path | None = None, **changes: Any
) -> Hypernetwork:
    """`ke` for a model; `trained` names the folder of its network, or one that holds it."""
    return make("ke", PAPER, model, trained, changes)


def ke_zsre(
    model: EditableModel, _moments: MomentSource, *, trained: str | Path | None = None, **changes: Any
) -> Hypernetwork:
    """`ke-zsre` for a model; `trained` as for `ke`."""
    return make("ke-zsre", PAPER, model, trained, changes)


def ke_cf(
    model: EditableModel, _moments: MomentSource, *, trained: str | Path | None = None, **changes: Any
) -> Hypernetwork:
    """`ke-cf` for a model; `trained` as for `ke`."""
    return make("ke-cf", PAPER, model, trained, changes)
