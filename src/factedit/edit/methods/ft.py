"""Fine-tuning one matrix of one layer: `ft`, and `ft-l` with every entry of the change bounded (arXiv 2012.00363).

The baselines of ROME (arXiv 2202.05262, section 3.2 and appendix E.1): Adam on the last matrix of one MLP until the
target is likely.

Departure from the published program: there the loss reads all target tokens at one position, the prompt's last, as
a bag of tokens. Here the loss is teacher-forced: the mean over the target of −log P(o*_t | prompt, o*_<t). For
targets of one token the two are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from factedit.edit.artefact import Edit, Notes
from factedit.edit.effects.dense import Dense
from factedit.edit.endings import Stop, ended, spoken
from factedit.edit.method import Made, MomentSource, Scope
from factedit.edit.presets import scaled_layer
from factedit.edit.presets_baselines import FT_L_PRESETS, FT_PRESETS, FineTuningSettings, checked, preset_values
from factedit.edit.state import State
from factedit.edit.target_rows import TargetBatch, TargetRow, target_row
from factedit.engine import budget
from factedit.errors import EditError, UsageError
from factedit.facts import EditRequest
from factedit.memory import in_halves
from factedit.models.adapter import EditableModel


@dataclass(frozen=True)
class FineTuning:
    """Either variant, set up for one model.

    Attributes:
        name: `ft` or `ft-l`.
        model: the model.
        settings: with the layer decided.
        layer: the tuned layer.
    """

    name: str
    model: EditableModel
    settings: FineTuningSettings
    layer: int
    paper: str = "arXiv 2012.00363"
    scope: Scope = "each"

    def edit(self, requests: Sequence[EditRequest], state: State | None = None) -> Made:
        """Return one independent edit per request, many tuned side by side.

        Raises:
            EditError: a loss that is not finite.
            RequestError: a target without tokens.
            ResourceError: a single fact does not fit in memory.
        """
        model = self.model
        rows = [_row(model, request, self.settings.stop) for request in requests]
        tuned: dict[int, tuple[Tensor, list[float]]] = {}
        work = lambda part: _tune(model, self.layer, [rows[n] for n in part], self.settings)  # noqa: E731
        with model.frozen(), torch.enable_grad():
            for part in _parts(model, self.layer, rows):
                tuned |= dict(zip(part, in_halves(part, work, what="facts"), strict=True))
        made_for = model.fingerprint()
        return Made(tuple(self._tuned(request, *tuned[n], made_for) for n, request in enumerate(requests)))

    def _tuned(self, request: EditRequest, change: Tensor, losses: list[float], made_for: str) -> Edit:
        return Edit(
            method=self.name,
            requests=(request,),
            effects=(Dense(self.layer, change),),
            made_for=made_for,
            notes=(Notes(diagnostics={"losses": [[loss] for loss in losses]}),),
            settings=self.describe(),
            diagnostics={
                "update_norm": float(change.norm()),
                "largest_entry": float(change.abs().max()),
                "weight_norm": float(self.model.weight(self.layer).float().norm()),
            },
            model_name=self.model.name,
        )

    def describe(self) -> dict[str, Any]:
        """Return everything that decides an edit beside the model and the request, as JSON values."""
        return {**self.settings.model_dump(mode="json"), "layer": self.layer}


def _row(model: EditableModel, request: EditRequest, stop: Stop) -> TargetRow:
    return ended(model, target_row(model, request.text, spoken(request.target_new, stop)), stop)


def _parts(model: EditableModel, layer: int, rows: Sequence[TargetRow]) -> Iterator[list[int]]:
    """Yield facts of like length in groups whose changes fit in a share of the memory."""
    count = budget.changes_tuned(model, layer)
    order = sorted(range(len(rows)), key=lambda n: len(rows[n].ids))
    for begin in range(0, len(order), count):
        yield order[begin : begin + count]


def _tune(
    model: EditableModel, layer: int, rows: Sequence[TargetRow], settings: FineTuningSettings
) -> list[tuple[Tensor, list[float]]]:
    """Adam on each row's own ΔW `[d_mlp, d_model]`, with its own stopping; each with the losses it saw."""
    like = model.weight(layer)
    changes = [torch.zeros(like.shape, device=like.device, requires_grad=True) for _ in rows]
    optimiser = torch.optim.Adam(changes, lr=settings.learning_rate)
    losses: list[list[float]] = [[] for _ in rows]
    active = list(range(len(rows)))
    batch = TargetBatch(model, layer, rows)
    for step in range(settings.steps):
        optimiser.zero_grad(set_to_none=True)
        with model.on_matrix(layer, _adding([changes[n] for n in active])):
            batch_losses = batch.losses()
        for n, loss in zip(active, batch_losses.tolist(), strict=True):
            losses[n].append(loss)
        _refuse_non_finite(model, batch_losses, [rows[n] for n in active], step)
        still = [n for n in active if losses[n][-1] >= settings.stop_loss]
        if not still:
            break
        going = [active.index(n) for n in still]
        batch_losses[going].sum().backward()
        for n in set(active) - set(still):
            changes[n].grad = None  # a finished fact rests: Adam's momentum must not move it
        optimiser.step()
        if settings.epsilon is not None:
            with torch.no_grad():
                for n in still:  # L∞: every entry of ΔW within ±ε
                    changes[n].clamp_(-settings.epsilon, settings.epsilon)
        if still != active:
            active, batch = still, TargetBatch(model, layer, [rows[n] for n in still])
    return [(change.detach(), seen) for change, seen in zip(changes, losses, strict=True)]


def _adding(changes: Sequence[Tensor]) -> Any:
    """Row n's values grow by its keys times its own ΔW."""

    def hook(key: Tensor, value: Tensor) -> Tensor:
        added = [row_keys.to(change.dtype) @ change for row_keys, change in zip(key, changes, strict=True)]
        return value + torch.stack(added).to(value.dtype)

    return hook


def _refuse_non_finite(model: EditableModel, losses: Tensor, rows: Sequence[TargetRow], step: int) -> None:
    for row, good in zip(rows, torch.isfinite(losses).tolist(), strict=True):
        if not good:
            text = model.tokenizer.decode(row.ids, skip_special_tokens=True)
            raise EditError(
                f"The loss of the fact {text!r} is not finite at step {step}. The model is unchanged. "
                "Check the weights for NaN, or lower the learning rate."
            )


def ft(model: EditableModel, _moments: MomentSource, **changes: Any) -> FineTuning:
    """Make `ft` for a model; settings as in `FineTuningSettings`, without `epsilon`.

    Raises:
        UsageError: `epsilon`, or a setting that does not hold.
    """
    if changes.get("epsilon") is not None:
        raise UsageError("Fine-tuning with a bound on every entry (epsilon) is the method ft-l.")
    values = {"layer": scaled_layer(model, 1, 48), **preset_values(FT_PRESETS, model)}
    return _make("ft", model, values, changes)


def ft_l(model: EditableModel, _moments: MomentSource, **changes: Any) -> FineTuning:
    """Make `ft-l` for a model; settings as in `FineTuningSettings`."""
    values = {"layer": 0, "epsilon": 5e-4, **preset_values(FT_L_PRESETS, model)}
    return _make("ft-l", model, values, changes)


def _make(name: str, model: EditableModel, values: dict[str, Any], changes: dict[str, Any]) -> FineTuning:
    settings = checked(FineTuningSettings, name, values, changes)
    return FineTuning(name, model, settings, model.check_layer(settings.layer or 0))
