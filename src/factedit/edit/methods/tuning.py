"""Fine-tuning one matrix on many facts: `locft-bf`, breadth first, and `ft-m`, depth first.

`locft-bf` (arXiv 2509.22072): epochs over all facts in shuffled batches; a batch whose loss is small makes no step, and
it ends when an epoch's mean is small. The target ends in the end-of-text token, without which a model rambles on.
`ft-m`: the older order; each batch is tuned until its loss is small before the next one comes, so that late facts undo
early ones.

Neither is sequential: a later call tunes on its own facts alone, on the model as it is then.

Departure from the published program: rows are padded right and read at their own positions (there left, with learned
positions shifted).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from factedit.edit.artefact import Notes
from factedit.edit.effects.dense import Dense
from factedit.edit.endings import ended
from factedit.edit.many.kept_rows import KeptRows
from factedit.edit.many.one_edit import one_edit
from factedit.edit.many.presets import LOCFT_PRESETS
from factedit.edit.many.settings import TuningSettings
from factedit.edit.method import Made, MomentSource, Scope
from factedit.edit.presets import scaled_layer
from factedit.edit.presets_baselines import checked, preset_values
from factedit.edit.state import State
from factedit.edit.target_rows import TargetRow, target_row
from factedit.errors import EditError, UsageError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel


class Tuned(NamedTuple):
    """What tuning came to.

    Attributes:
        change: ΔW `[d_mlp, d_model]`, float32.
        batch_losses: of every evaluation, in order.
        epoch_losses: their means (`locft-bf`), or the last loss of each batch (`ft-m`).
    """

    change: Tensor
    batch_losses: list[float]
    epoch_losses: list[float]


class Tuner:
    """Adam on ΔW of one matrix, batch by batch.

    Args:
        model: the model; unchanged.
        layer: whose last MLP matrix.
        rows: prompts and targets.
        settings: rate and bounds.
    """

    def __init__(self, model: EditableModel, layer: int, rows: Sequence[TargetRow], settings: TuningSettings) -> None:
        self._model, self._layer, self._settings = model, layer, settings
        self._rows = KeptRows(model, layer, rows)
        weight = model.weight(layer)
        self.change = torch.zeros(weight.shape, device=weight.device, requires_grad=True)
        self._adam = torch.optim.Adam([self.change], lr=settings.learning_rate)

    def step(self, which: Sequence[int]) -> float:
        """Return the mean loss of some rows; one step where it is not small already.

        Raises:
            EditError: the loss is not finite.
        """
        self._adam.zero_grad(set_to_none=True)
        change = self.change
        add = lambda key, value: value + (key.to(change.dtype) @ change).to(value.dtype)  # noqa: E731
        batch = self._rows.batch(which)
        with self._model.on_matrix(self._layer, add):
            loss = batch.losses().mean()
        mean_loss = float(loss.detach())
        if not torch.isfinite(loss):
            raise EditError(
                f"The loss of a batch of {len(which)} facts is {mean_loss}; the model is unchanged. "
                "Check the weights for NaN, or lower the learning rate."
            )
        if mean_loss >= self._settings.stop_loss:
            torch.autograd.backward(loss)
            self._adam.step()
        return mean_loss


def breadth_first(tuner: Tuner, count: int, settings: TuningSettings) -> Tuned:
    """Run epochs over all facts."""
    order, shuffler = list(range(count)), random.Random(settings.shuffle_seed)
    batch_losses: list[float] = []
    epoch_losses: list[float] = []
    for _ in range(settings.epochs):
        shuffler.shuffle(order)
        losses = [tuner.step(part) for part in _batches(order, settings.batch)]
        batch_losses += losses
        epoch_losses.append(sum(losses) / len(losses))
        if epoch_losses[-1] < settings.stop_loss:
            break
    return Tuned(tuner.change.detach(), batch_losses, epoch_losses)


def depth_first(tuner: Tuner, count: int, settings: TuningSettings) -> Tuned:
    """Run batch after batch, each until its loss is small."""
    batch_losses: list[float] = []
    ends: list[float] = []
    for part in _batches(list(range(count)), settings.batch):
        for _ in range(settings.epochs):
            batch_losses.append(tuner.step(part))
            if batch_losses[-1] < settings.stop_loss:
                break
        ends.append(batch_losses[-1])
    return Tuned(tuner.change.detach(), batch_losses, ends)


def _batches(order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for begin in range(0, len(order), size):
        yield order[begin : begin + size]


@dataclass(frozen=True, eq=False)
class Tuning:
    """Either method, set up for one model.

    Attributes:
        name, paper: of the method.
        model: the model.
        settings: with the layer decided.
        layer: the tuned layer.
    """

    name: str
    paper: str
    model: EditableModel
    settings: TuningSettings
    layer: int
    scope: Scope = "joint"

    def edit(self, requests: Sequence[EditRequest], state: State | None = None) -> Made:
        """Return one edit of all requests; there is nothing to remember.

        Raises:
            EditError: a loss that is not finite.
            RequestError: a target without tokens.
        """
        if not requests:
            return Made((), state)
        model = self.model
        rows = [self._row(request) for request in requests]
        with model.frozen(), torch.enable_grad():
            tuner = Tuner(model, self.layer, rows, self.settings)
            work = depth_first if self.name == "ft-m" else breadth_first
            tuned = work(tuner, len(rows), self.settings)
        edit = one_edit(
            self.name,
            model,
            requests,
            [Dense(self.layer, tuned.change)],
            notes=[Notes(diagnostics={"target_tokens": len(row.targets)}) for row in rows],
            settings=self.describe(),
            diagnostics={"batch_losses": tuned.batch_losses, "epoch_losses": tuned.epoch_losses},
        )
        return Made((edit,))

    def _row(self, request: EditRequest) -> TargetRow:
        row = target_row(self.model, request.text, request.target_new)
        return ended(self.model, row, "end" if self.settings.end_of_text else "none")

    def describe(self) -> dict[str, Any]:
        """Return everything that decides an edit beside the model and the requests, as JSON values."""
        return {**self.settings.model_dump(mode="json"), "layer": self.layer}


def locft_bf(model: EditableModel, _moments: MomentSource, **changes: Any) -> Tuning:
    """Make `locft-bf` for a model; settings as in `TuningSettings`."""
    return _make("locft-bf", "arXiv 2509.22072", model, changes, {})


def ft_m(model: EditableModel, _moments: MomentSource, **changes: Any) -> Tuning:
    """Make `ft-m` for a model; settings as in `TuningSettings`, one fact at a time, without the end-of-text token."""
    return _make("ft-m", "as compared in arXiv 2509.22072", model, changes, {"batch": 1, "end_of_text": False})


def _make(name: str, paper: str, model: EditableModel, changes: dict[str, Any], defaults: dict[str, Any]) -> Tuning:
    stop = changes.pop("stop", None)  # the word that other methods have for the same
    if stop not in (None, "end"):
        raise UsageError(f"{name} ends its targets in the end-of-text token or not at all: stop {stop!r} is not there.")
    defaults = defaults | ({"end_of_text": True} if stop else {})
    values = {"layer": scaled_layer(model, 22, 32), **preset_values(LOCFT_PRESETS, model), **defaults}
    settings = checked(TuningSettings, name, values, changes)
    return Tuning(name, paper, model, settings, model.check_layer(settings.layer or 0))
