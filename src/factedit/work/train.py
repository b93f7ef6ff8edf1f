"""Train the network that KE or MEND needs, for a model and on a training set."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factedit.cache import locked
from factedit.edit.presets_baselines import checked
from factedit.edit.trained import (
    NETWORK_KINDS,
    NETWORK_SETTINGS,
    RECORD,
    TrainedRecord,
    default_folder,
    method_name,
    read_record,
)
from factedit.errors import UnknownName, UsageError
from factedit.train.loop import TrainSettings, train
from factedit.train.objective import TrainingLosses
from factedit.train.prepare import check_data, prepare
from factedit.work.inputs import ModelSource, open_text, opened
from factedit.work.progress import Progress, keeping, silent

PIECES = 4000  # of general text
logger = logging.getLogger("factedit")


@dataclass(frozen=True)
class Training:
    """What a training gave.

    Attributes:
        folder: of the network.
        record: its pedigree, with the losses of every validation.
    """

    folder: Path
    record: TrainedRecord

    @property
    def megabytes(self) -> float:
        """The size of the folder's files, 10^6 bytes."""
        return sum(path.stat().st_size for path in self.folder.iterdir()) / 1e6

    def as_json(self) -> dict[str, Any]:
        """Return folder and pedigree."""
        return {"folder": str(self.folder), **self.record.model_dump(mode="json")}


def train_network(
    model: ModelSource,
    kind: str,
    *,
    data: str = "general",
    folder: Path | None = None,
    corpus: str | None = None,
    rank: int | None = None,
    progress: Progress = silent,
    **changes: Any,
) -> Training:
    """Train the network of an editing method, or go on with a training that the folder holds.

    Args:
        model: the model, unchanged, or what gives it.
        kind: `ke` or `mend`.
        data: `general`, `zsre`, `counterfact`, or a file of facts.
        folder: of the network; None is where methods look for it.
        corpus: general text, see `open_corpus`; None is text that the model writes itself.
        rank: of MEND's low-rank maps.
        progress: told the steps done.
        changes: departures from `TrainSettings`; None means the default.

    Raises:
        UsageError: an unknown kind, setting or training set, refused before the model is loaded; more blocks than it
            has layers.
        DataError: records that an evaluation asks, or too few.
        EditError: the training diverged; the message says what was kept.
    """
    known = next((one for one in NETWORK_KINDS if one == kind), None)
    if known is None:
        raise UnknownName("network", kind, NETWORK_KINDS)
    if known != "mend" and rank is not None:
        raise UsageError("--rank is a setting of mend.")
    check_data(data)
    settings = checked(TrainSettings, "the training", {}, changes)
    network = checked(NETWORK_SETTINGS[known], known, {}, {"rank": rank})
    text = open_text(corpus)
    model = opened(model)
    if (changes.get("blocks") or 0) > model.n_layer:
        raise UsageError(f"--blocks {changes['blocks']} was asked for; {model.name} has {model.n_layer} layers.")
    source, about = prepare(model, data, text, pieces=PIECES)
    name = method_name(known, about["name"])
    place = folder or default_folder(model, name)
    logger.info("training %s on %d records into %s", name, len(source.names), place)
    with locked(place), keeping(lambda: _kept(place)):
        record = train(
            model, known, source, place, data=about, settings=settings, network=network,
            progress=_Telling(progress, name, settings.steps, max(1, settings.validate_every // 5)),
        )  # fmt: skip
    return Training(place, record)


def _kept(folder: Path) -> str:
    if not (folder / RECORD).is_file():
        return "nothing is kept yet: the first validation was not reached"
    return f"step {read_record(folder).step} is kept in {folder}, and the same command goes on there"


class _Telling:
    """Told every step; every so often notes the mean losses since the last time."""

    def __init__(self, progress: Progress, name: str, steps: int, every: int) -> None:
        self.progress, self.name, self.steps, self.every = progress, name, steps, every
        self.seen: list[TrainingLosses] = []
        self.began = time.perf_counter()

    def __call__(self, step: int, losses: TrainingLosses | None) -> None:
        self.progress(f"training {self.name} (steps)", step, self.steps)
        if losses is None:  # before the first step
            self.began = time.perf_counter()
            return
        self.seen.append(losses)
        if step % self.every:
            return
        count = len(self.seen)
        edit, drift = sum(one.edit for one in self.seen) / count, sum(one.drift for one in self.seen) / count
        each = (time.perf_counter() - self.began) / count
        logger.info("step %d: edit %.3f, drift %.4f, %.2f s a step", step, edit, drift, each)
        self.seen.clear()
        self.began = time.perf_counter()
