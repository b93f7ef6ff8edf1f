"""The training of a hypernetwork: steps, validation, checkpoints that survive a kill, and when to stop.

Everything a step does depends on the seed, the step's number and the state written in the folder, so a resumed
training gives the same bits as one that was never interrupted.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from factedit.edit.factors import last_matrices
from factedit.edit.trained import Network, NetworkKind, TrainedRecord, build_network, method_name, text_hashes
from factedit.errors import EditError, UsageError
from factedit.models.adapter import EditableModel
from factedit.train.checkpoint import load_state, read_if_any, save_folder
from factedit.train.examples import Example, Source
from factedit.train.objective import TrainingLosses, losses

WARM_UP = 4  # batches
VALIDATION = "validation"


class TrainSettings(BaseModel):
    """Settings of a training, small enough for two hours on two cores with Gemma 3 270M (docs/log.md).

    Published (MEND): rank 1920, learning rate 1e-6 with V drawn √d times as large, tens of thousands of steps.

    Args:
        blocks: how many last blocks are edited.
        batch: examples per step (published: 10, as accumulated steps of 1).
        steps: at most.
        learning_rate: Adam's, of the network.
        rate_learning_rate: Adam's, of MEND's learned rates.
        c_edit, c_loc: weights of the loss.
        clip: of the gradient's norm.
        validate_every: steps between validations, at each of which the folder is written.
        validation: examples held out for it.
        patience: validations without a better loss before stopping.
        diverged: a loss above this many times the untrained network's validation loss stops the training.
        seed: of the initial weights, the split and the draws.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    blocks: int = Field(3, ge=1)
    batch: int = Field(8, ge=1)
    steps: int = Field(2000, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    rate_learning_rate: float = Field(1e-4, gt=0)
    c_edit: float = Field(0.1, ge=0)
    c_loc: float = Field(1.0, ge=0)
    clip: float = Field(100.0, gt=0)
    validate_every: int = Field(100, ge=1)
    validation: int = Field(32, ge=1)
    patience: int = Field(5, ge=1)
    diverged: float = Field(20.0, gt=1)
    seed: int = 0


@dataclass
class _Run:
    """A training under way."""

    model: EditableModel
    source: Source
    settings: TrainSettings
    record: TrainedRecord
    network: Network
    optimiser: torch.optim.Adam
    best: dict[str, Tensor]
    folder: Path
    trained_on: tuple[int, ...]
    held_out: tuple[int, ...]
    begun: float = field(default_factory=time.perf_counter)

    def draw(self, numbers: Sequence[int], name: object) -> list[Example]:
        """Return the examples of some records, for a step or, by that name, for validation."""
        seeds = [f"{self.settings.seed}:{name}:{number}" for number in numbers]
        draws = [(number, random.Random(seed)) for number, seed in zip(numbers, seeds, strict=True)]
        return self.source.examples(self.model, draws, held_out=name == VALIDATION)

    def of_step(self, step: int) -> list[Example]:
        """Return a step's examples."""
        count = min(self.settings.batch, len(self.trained_on))
        return self.draw(random.Random(f"{self.settings.seed}:{step}").sample(self.trained_on, count), step)

    def losses(self, examples: Sequence[Example]) -> TrainingLosses:
        """L of some examples."""
        places = last_matrices(self.model, self.settings.blocks)
        c = {"c_edit": self.settings.c_edit, "c_loc": self.settings.c_loc}
        return losses(self.model, self.network, places, examples, **c)

    def note(self, **changes: Any) -> None:
        """Change the record."""
        self.record = self.record.model_copy(update=changes)

    def save(self) -> None:
        """Write the folder."""
        now = time.perf_counter()
        self.note(seconds=self.record.seconds + now - self.begun)
        self.begun = now
        seen = text_hashes(self.source.texts)
        self.record = save_folder(self.folder, self.record, self.best, seen, self.network, self.optimiser)


def train(
    model: EditableModel,
    kind: NetworkKind,
    source: Source,
    folder: Path,
    *,
    data: dict[str, Any],
    settings: TrainSettings,
    network: BaseModel,
    progress: Callable[[int, TrainingLosses | None], None] = lambda _step, _losses: None,
) -> TrainedRecord:
    """Train a network for a model, or go on with the training that a folder holds.

    Args:
        model: the model; unchanged.
        kind: `ke` or `mend`.
        source: what to train on.
        folder: where the network and, until the end, the training's state are kept.
        data: name and hash of the training set, for the record.
        settings: of the training.
        network: of the network.
        progress: called after each step with its number and losses.

    Raises:
        EditError: the training diverged; the message says at which step and what was kept.
        UsageError: too few records, or the folder holds another training.
    """
    run = _start(model, kind, source, folder, data, settings, network)
    if run.record.finished:
        return run.record
    if not run.record.validation:
        _warm_up(run)
        _validate(run)
    progress(run.record.step, None)
    while run.record.step < settings.steps and not _stale(run):
        _step(run, progress)
        if run.record.step % settings.validate_every == 0 or run.record.step == settings.steps:
            _validate(run)
    why = "all steps done" if run.record.step == settings.steps else "validation stopped improving"
    run.note(finished=True, why=why)
    run.save()
    return run.record


def _start(
    model: EditableModel, kind: NetworkKind, source: Source, folder: Path, data: dict[str, Any],
    settings: TrainSettings, network: BaseModel,
) -> _Run:  # fmt: skip
    count = len(source.names)
    if count <= settings.validation:
        raise UsageError(
            f"{count} records to train on, of which {settings.validation} are held out for validation: "
            "give more records, or fewer for validation."
        )
    held = set(random.Random(settings.seed).sample(range(count), settings.validation))
    trained_on = tuple(n for n in range(count) if n not in held)
    names = "\n".join(sorted(source.names[n] for n in trained_on))
    record = TrainedRecord(
        kind=kind,
        name=method_name(kind, data["name"]),
        model_name=model.name,
        model_fingerprint=model.fingerprint(),
        blocks=settings.blocks,
        network=network.model_dump(mode="json"),
        training=settings.model_dump(mode="json"),
        data=data,
        records=len(trained_on),
        records_sha256=hashlib.sha256(names.encode()).hexdigest(),
    )
    made = build_network(model, settings.blocks, network, seed=settings.seed)
    optimiser = torch.optim.Adam(made.groups(settings.learning_rate, settings.rate_learning_rate))
    run = _Run(model, source, settings, record, made.train(), optimiser, {}, folder, trained_on, tuple(sorted(held)))
    before = read_if_any(folder, record)
    if before is not None:
        run.record = before
        if not before.finished:
            run.best = load_state(folder, before, made, optimiser)
    return run


@torch.no_grad()
def _warm_up(run: _Run) -> None:
    """Let the network see some gradients before it is judged or trained: MEND takes their mean and spread."""
    for n in range(WARM_UP):
        run.losses(run.of_step(-n))


def _step(run: _Run, progress: Callable[[int, TrainingLosses | None], None]) -> None:
    """One update."""
    step = run.record.step + 1
    run.optimiser.zero_grad(set_to_none=True)
    step_losses = run.losses(run.of_step(step))
    total = float(step_losses.total.detach())
    if not total <= run.settings.diverged * run.record.validation[0][1]:  # NaN is not
        _diverged(run, step, f"the loss is {total:.4g}")
    step_losses.total.backward()
    norm = float(torch.nn.utils.clip_grad_norm_(run.network.parameters(), run.settings.clip))
    if not math.isfinite(norm):
        _diverged(run, step, f"the gradient's norm is {norm:.4g}")
    run.optimiser.step()
    run.note(step=step)
    progress(step, step_losses)


def _validate(run: _Run) -> None:
    """Loss on the held-out examples; the best network is kept, and the folder written."""
    run.network.eval()
    per_batch = []
    with torch.no_grad():
        for begin in range(0, len(run.held_out), run.settings.batch):
            part = run.held_out[begin : begin + run.settings.batch]
            part_losses = run.losses(run.draw(part, VALIDATION))
            per_batch.append((len(part), float(part_losses.total), part_losses.edit, part_losses.drift))
    run.network.train()
    count = sum(n for n, *_ in per_batch)
    total, edit, drift = (sum(row[0] * row[k] for row in per_batch) / count for k in (1, 2, 3))
    if not math.isfinite(total):
        _diverged(run, run.record.step, f"the validation loss is {total:.4g}")
    run.note(validation=(*run.record.validation, (float(run.record.step), total, edit, drift)))
    if run.record.best_loss is None or total < run.record.best_loss:
        run.note(best_step=run.record.step, best_loss=total)
        run.best = {name: t.detach().clone() for name, t in run.network.state_dict().items()}
    run.save()


def _stale(run: _Run) -> bool:
    return run.record.step - run.record.best_step >= run.settings.patience * run.settings.validate_every


def _diverged(run: _Run, step: int, what: str) -> None:
    """Keep the last good network, saying where, and stop.

    Raises:
        EditError: always.
    """
    begun = f"The training of {run.record.name} diverged at step {step}: {what}."
    if not run.record.best_step:
        raise EditError(f"{begun} No validation was better than the untrained network. Lower the learning rate.")
    before = read_if_any(run.folder, run.record)
    run.record = before or run.record
    load_state(run.folder, run.record, run.network, run.optimiser)  # the state in memory may hold what diverged
    run.note(finished=True, why=f"diverged at step {step}: {what}")
    run.save()
    raise EditError(
        f"{begun} The network of step {run.record.best_step} (validation loss {run.record.best_loss:.4g}) is kept in "
        f"{run.folder} and can be used; for a better one lower the learning rate and name another folder."
    )
