"""Small trainings of KE and MEND on tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factedit.edit.trained import NETWORK_SETTINGS, NetworkKind, TrainedRecord
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from factedit.train.examples import RecordExamples, Source
from factedit.train.loop import TrainSettings, train

SUBJECTS = ("Paris", "Seattle", "LeBron James", "The Space Needle", "France", "Danielle Darrieux")
TARGETS = ("France", "football", "Seattle", "Paris")
RECORDS = tuple(
    FactRecord(
        case_id=f"{i}{j}",
        request=EditRequest(subject=subject, prompt="{} is in", target_new=target),
        paraphrases=(f"Where is {subject}? In",),
        neighborhood=("the sport of",),
        loc_answer="French",
    )
    for i, subject in enumerate(SUBJECTS)
    for j, target in enumerate(TARGETS)
)
NETWORKS: dict[NetworkKind, dict[str, Any]] = {
    "mend": {"rank": 8, "rate": 1e-4},
    "ke": {"lstm": 16, "condition": 16, "hidden": 8},
}
SETTINGS: dict[str, Any] = {
    "steps": 40, "batch": 4, "validation": 6, "validate_every": 20, "learning_rate": 3e-3, "rate_learning_rate": 1e-3,
}  # fmt: skip


def train_tiny(
    model: EditableModel,
    kind: NetworkKind,
    folder: Path,
    *,
    source: Source | None = None,
    name: str = "zsre",
    **changes: Any,
) -> TrainedRecord:
    """Train a small network on a few facts."""
    progress = changes.pop("progress", lambda _step, _losses: None)
    return train(
        model, kind, source or RecordExamples(RECORDS), folder, data={"name": name},
        settings=TrainSettings(**{**SETTINGS, **changes}), network=NETWORK_SETTINGS[kind](**NETWORKS[kind]),
        progress=progress,
    )  # fmt: skip
