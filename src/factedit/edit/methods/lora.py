"""LoRA: low-rank factors beside the last matrix of MLPs, tuned on the facts by Adam and merged (arXiv 2106.09685).

Rank 8, α 32, Adam at 5e-3, as compared in later work on editing. Tuned through peft on a copy of the model; what is
kept is the product, a low-rank change like any other. All facts are tuned on at once; a later call tunes on its own
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from factedit.edit.artefact import Notes
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.endings import Stop, ended, spoken
from factedit.edit.many.make import check_layers
from factedit.edit.many.one_edit import one_edit
from factedit.edit.many.settings import Layers
from factedit.edit.method import Made, MomentSource, Scope
from factedit.edit.presets import off
from factedit.edit.presets_baselines import checked
from factedit.edit.state import State
from factedit.edit.target_rows import TargetRow, target_row
from factedit.engine.resume import align
from factedit.errors import EditError, UsageError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel


class LoraSettings(BaseModel):
    """Settings of LoRA.

    Args:
        layers: whose last MLP matrices get factors; None takes all.
        rank: of the factors.
        alpha: the product is scaled by α / rank.
        learning_rate: Adam's.
        steps: evaluations of the loss at most, an update after each but the last.
        stop_loss: stop when the mean loss is below.
        batch: facts of a step.
        seed: of the first factors, which are drawn, and of the order of the facts.
        stop: how the target ends: `none`, in the `end`-of-text token, or as a `sentence` (published: none).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    layers: Layers = None
    rank: int = Field(8, ge=1)
    alpha: int = Field(32, ge=1)
    learning_rate: float = Field(5e-3, gt=0)
    steps: int = Field(50, ge=1)
    stop_loss: float = Field(0.01, ge=0)
    batch: int = Field(32, ge=1)
    seed: int = 0
    stop: Stop = Field("none", exclude_if=off)


@dataclass(frozen=True)
class Lora:
    """The method, set up for one model.

    Attributes:
        model: the model.
        settings: of the factors and their tuning.
        layers: whose last MLP matrices.
    """

    model: EditableModel
    settings: LoraSettings
    layers: tuple[int, ...]
    name: str = "lora"
    paper: str = "arXiv 2106.09685"
    scope: Scope = "joint"

    def edit(self, requests: Sequence[EditRequest], state: State | None = None) -> Made:
        """Return one edit of all requests; there is nothing to remember.

        Raises:
            UsageError: peft is not installed.
            EditError: a loss that is not finite.
            RequestError: a target without tokens.
        """
        if not requests:
            return Made((), state)
        settings = self.settings
        rows = [
            ended(self.model, target_row(self.model, r.text, spoken(r.target_new, settings.stop)), settings.stop)
            for r in requests
        ]
        names = {layer: self._module(layer) for layer in self.layers}
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(settings.seed)
            tuned = with_factors(self.model, list(names.values()), settings)
            losses = _tune(self.model, tuned, rows, settings)
        edit = one_edit(
            self.name, self.model, requests, [LowRank(n, *lora_factors(tuned, name)) for n, name in names.items()],
            notes=[Notes(diagnostics={"target_tokens": len(row.targets)}) for row in rows], settings=self.describe(),
            diagnostics={"losses": losses},
        )  # fmt: skip
        return Made((edit,))

    def _module(self, layer: int) -> str:
        return self.model.matrix(layer, "out").name.removesuffix(".weight")

    def describe(self) -> dict[str, Any]:
        """Return everything that decides an edit beside the model and the requests, as JSON values."""
        return {**self.settings.model_dump(mode="json"), "layers": list(self.layers)}


def with_factors(model: EditableModel, modules: Sequence[str], settings: LoraSettings) -> Any:
    """Return a copy of the model with factors, the first drawn, the second zero.

    Args:
        model: not changed.
        modules: full names of the linear layers that get some.
        settings: rank and α.

    Raises:
        UsageError: peft is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise UsageError("The method lora tunes through peft. Install it: pip install 'factedit[peft]'.") from error
    config = peft.LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=0.0, target_modules=list(modules), bias="none",
        fan_in_fan_out=model.family.stored_in_out,
    )  # fmt: skip
    return peft.get_peft_model(deepcopy(model.lm), config)


def lora_factors(tuned: Any, module: str) -> tuple[Tensor, Tensor]:
    """Return the factors of a module's change, `[d_in, rank]` and `[rank, d_out]`, α / rank in the second."""
    adapted = tuned.base_model.model.get_submodule(module)
    first, second = adapted.lora_A["default"].weight, adapted.lora_B["default"].weight
    return first.detach().T.float().clone(), (adapted.scaling["default"] * second.detach()).T.float().clone()


def _tune(model: EditableModel, tuned: Any, rows: Sequence[TargetRow], settings: LoraSettings) -> list[float]:
    """Adam on the factors, batch after batch of shuffled facts; return the loss of every evaluation, in nats."""
    adam = torch.optim.Adam([p for p in tuned.parameters() if p.requires_grad], lr=settings.learning_rate)
    losses: list[float] = []
    waiting: list[int] = []
    for step in range(settings.steps):
        waiting = waiting or torch.randperm(len(rows)).tolist()
        part, waiting = waiting[: settings.batch], waiting[settings.batch :]
        adam.zero_grad(set_to_none=True)
        loss = _loss(model, tuned, [rows[n] for n in part])
        losses.append(float(loss.detach()))
        if not torch.isfinite(loss):
            raise EditError(
                f"The loss of {len(part)} facts is {losses[-1]} at step {step}; the model is unchanged. Check the "
                "weights for NaN, or lower the learning rate."
            )
        recent = losses[-max(1, -(-len(rows) // settings.batch)) :]
        if step == settings.steps - 1 or sum(recent) / len(recent) < settings.stop_loss:
            break
        torch.autograd.backward(loss)
        adam.step()
    return losses


def _loss(model: EditableModel, tuned: Any, rows: Sequence[TargetRow]) -> Tensor:
    """Return the mean over rows of the mean −log P of their target tokens."""
    batch = align([row.ids for row in rows], device=model.device)
    logits: Tensor = tuned(input_ids=batch.ids, attention_mask=batch.mask.long()).logits
    each = []
    for row, row_logits in zip(rows, logits, strict=True):
        log_p = row_logits[list(row.reads)].float().log_softmax(-1)
        each.append(-log_p[range(len(row.targets)), list(row.targets)].mean())
    return torch.stack(each).mean()


def lora(model: EditableModel, _moments: MomentSource, **changes: Any) -> Lora:
    """Return `lora` for a model; settings as in `LoraSettings`.

    Raises:
        UsageError: settings that do not hold, layers that the model does not have or that do not ascend, or a model
            that is read from disk.
    """
    if model.streamed:
        raise UsageError(
            f"The method lora tunes a copy of the whole model, and {model.name} is read from disk layer by layer. Load "
            "it whole, without --stream, or use another method (ft, for one)."
        )
    settings = checked(LoraSettings, "lora", {}, changes)
    wanted = range(model.n_layer) if settings.layers is None else settings.layers
    return Lora(model, settings, check_layers(model, wanted))
