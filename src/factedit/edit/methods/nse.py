"""NSE (Jiang et al. 2025, arXiv 2410.04045): values from the unedited weights, written into strong neurons, in rounds.

Values are found on the unedited model, also in the middle of a sequence. In each round those facts are written that are
not near enough to their values yet; in each layer only into the neurons that these facts' keys excite most, MEMIT's
solve being cut to their rows. The keys of a whole batch join the history after its rounds.

The published distances (`near`, `far`) are in the units of one model's hidden states; elsewhere `near` is a share of
the distance at the beginning. The program counts its last, idle round too: its 3 are 2 rounds of writing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from factedit.edit.artefact import Notes
from factedit.edit.effects.low_rank import LowRank, low_rank_at
from factedit.edit.many.hidden_value import find_hidden_values
from factedit.edit.many.history import cholesky
from factedit.edit.many.joint import TINY, Values, told_of_values, types_of
from factedit.edit.many.make import check_layers, make_contexts
from factedit.edit.many.one_edit import begin_batch, one_edit, same_keys
from factedit.edit.many.presets import NSE_PRESETS
from factedit.edit.many.prompts import Prompts
from factedit.edit.many.settings import NseSettings, joint_settings
from factedit.edit.many.solver import LayerPast, state_after, with_values
from factedit.edit.many.write import LayerChange, layer_written, write_layers
from factedit.edit.method import Made, MomentSource, Scope
from factedit.edit.state import State
from factedit.errors import EditError, UsageError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.stats.penalty import wanted_scale
from factedit.stats.preserved import Preserved, preserved_at


@dataclass(frozen=True, eq=False)
class Nse:
    """`nse`, set up for one model.

    Attributes:
        model: the model.
        settings: with the layers decided.
        kept: what must stay, per edited layer.
        contexts: templates, the bare one first.
    """

    model: EditableModel
    settings: NseSettings
    kept: dict[int, Preserved]
    contexts: tuple[str, ...]
    name: str = "nse"
    paper: str = "arXiv 2410.04045"
    scope: Scope = "joint"

    def edit(self, requests: Sequence[EditRequest], state: State | None = None) -> Made:
        """Return one edit of all requests, beside those before it.

        Raises:
            EditError: a loss or an update that is not finite; a history of another base.
            RequestError: a subject or target without tokens.
            ResourceError: a single fact does not fit in memory.
        """
        if not requests:
            return Made((), state)
        model, layers = self.model, list(self.kept)
        base, pasts = begin_batch(
            model, self.kept, requests, state, history=self.settings.history, experts=self.settings.experts
        )
        job = _Batch(self, requests, pasts)
        with ExitStack() as stack:
            written, keys = job.rounds(stack)
            reached = job.prompts(requests).reached(layers[-1])
            values = {layer: model.mlp(layer).product(keys[layer]) for layer in layers}
        after = {n: job.past_with(n, keys[n], values[n]) for n in layers}
        effects = [change for n in layers for change in job.effects(n)]
        missing = job.values.targets - reached
        notes = [Notes(diagnostics=told) for told in told_of_values(job.values, job.begun, missing)]
        edit = one_edit(
            self.name, model, requests, effects, notes=notes,
            settings=self.describe(), layers={n: job.told(n) for n in layers},
            diagnostics={
                "missing": float(missing.norm() / job.begun.norm().clamp(min=TINY)),
                "written_in_round": written,
                **same_keys(keys[layers[0]], job.pasts[layers[0]].keys),
            },
        )  # fmt: skip
        return Made((edit,), state_after(base, after) if self.settings.history else None)

    def describe(self) -> dict[str, Any]:
        """Return everything that decides an edit beside the model, the requests and the state, as JSON values."""
        return {
            **self.settings.model_dump(mode="json"),
            "layers": list(self.kept),
            "context_templates": list(self.contexts),
            "second_moments": {str(n): kept.moment.fingerprint for n, kept in self.kept.items()},
        }


class _Batch:
    """The rounds of one batch.

    Attributes:
        pasts: what earlier batches left, per layer, these subjects' names left out of C.
        values: of the facts, found on the unedited model.
        begun: how far each fact was from its value before the first round, `[n]`.
    """

    def __init__(self, method: Nse, requests: Sequence[EditRequest], pasts: Mapping[int, LayerPast]) -> None:
        self.method, self.model, self.settings = method, method.model, method.settings
        self.requests, self.layers = list(requests), list(method.kept)
        subjects = [request.subject for request in requests]
        self.pasts = {layer: past.leaving_out(method.kept[layer], subjects) for layer, past in pasts.items()}
        changes = next(iter(method.kept.values())).changes
        with self.model.with_first_changes(changes):
            self.values = self._found(requests)
        self.begun = torch.empty(0)
        self._scales: dict[int, float] = {}
        self._changes: dict[int, list[LayerChange]] = {layer: [] for layer in self.layers}
        self._told: dict[int, dict[str, Any]] = {layer: {} for layer in self.layers}

    def _found(self, requests: Sequence[EditRequest]) -> Values:
        last, contexts = self.layers[-1], self.method.contexts
        found_values = find_hidden_values(self.model, last, requests, contexts, self.settings)
        targets, deltas = (torch.stack([getattr(v, name) for v in found_values]) for name in ("target", "delta"))
        return Values(targets, deltas, [value.losses for value in found_values])

    def prompts(self, requests: Sequence[EditRequest]) -> Prompts:
        """Return the facts' prompts, to be run on the model as it is."""
        types, first = types_of(self.method.contexts), self.layers[0]
        return Prompts(self.model, requests, types, first, experts=self.settings.experts)

    def rounds(self, stack: ExitStack) -> tuple[list[int], dict[int, Tensor]]:
        """Write round after round into the model; it has its own bits again when the stack ends.

        Returns:
            How many facts each round wrote, and the keys of all facts afterwards, per layer `[n, d_mlp]`.
        """
        counts, near = list[int](), self.settings.near
        for _ in range(self.settings.rounds):
            reached = self.prompts(self.requests).reached(self.layers[-1])
            distances = (self.values.targets - reached).norm(dim=1)
            self.begun = self.begun if len(self.begun) else distances
            near = near or self.settings.near_share * float(distances.mean())
            far = self.settings.far or float("inf")
            facts = ((distances > near) & (distances < far)).nonzero()[:, 0]
            if not len(facts):
                break
            counts.append(len(facts))
            part = self.prompts([self.requests[n] for n in facts.tolist()])
            written, _ = write_layers(self.model, self.layers, part, self.values.targets[facts], self._solve)
            for each in written:
                self._changes[each.layer].append(each.change)
                stack.enter_context(layer_written(self.model, each.layer, each.change))
        if not counts:
            raise EditError(
                f"No fact lies between {near:.3g} and {self.settings.far} from its value, so nothing is written. "
                "Lower near, or raise far."
            )
        seen = self.prompts(self.requests)
        return counts, {layer: seen.see(layer, self.layers[-1]).keys for layer in self.layers}

    def _solve(self, layer: int, keys: Tensor, residual: Tensor) -> LayerChange:
        """MEMIT's solve, on the rows and columns of the neurons that these keys excite most."""
        kept, past = self.method.kept[layer], self.pasts[layer]
        penalty = kept.penalty().without(past.left_out)
        if layer not in self._scales:
            strength = (keys.double() * penalty.solve(keys)).sum(1)
            self._scales[layer] = past.scale or self.settings.weight or wanted_scale(strength, self.settings.share)
        chosen = strongest(keys, self.settings.strongest)
        few = keys.double()[:, chosen]
        system = penalty.scaled(self._scales[layer]).matrix().to(few.device)[chosen][:, chosen]
        for beside in (past.keys.double()[:, chosen], few):
            system = system + beside.T @ beside
        left = torch.zeros(keys.shape[1], len(keys), dtype=residual.dtype, device=keys.device)
        left[chosen] = torch.cholesky_solve(few.T, cholesky(system)).to(residual)
        told = self._told[layer]
        told.setdefault("neurons", []).append(len(chosen))
        told["scale"], told["history"] = self._scales[layer], len(past.keys)
        return LayerChange(left, residual)

    def effects(self, layer: int) -> Sequence[LowRank]:
        """Return the sum of the rounds' changes."""
        changes = self._changes[layer]
        left, right = torch.cat([c.left for c in changes], 1), torch.cat([c.right for c in changes])
        return low_rank_at(self.model, layer, left.float(), right.float())

    def told(self, layer: int) -> dict[str, Any]:
        """Return the weight of C, how many keys stood beside, and how many neurons each round wrote."""
        return self._told[layer]

    def past_with(self, layer: int, keys: Tensor, values: Tensor) -> LayerPast:
        """Return the past with this batch."""
        past = with_values(self.pasts[layer].plus(keys), values)
        return replace(past, scale=self._scales[layer])


def strongest(keys: Tensor, share: float) -> Tensor:
    """Return the neurons with the largest Σ|k| over the facts, as long as their sum is at most a share of all.

    Args:
        keys: `[n, d_mlp]`.
        share: of the whole sum; 1 takes all neurons.
    """
    scores = keys.double().abs().sum(0)
    if share == 1:
        return torch.arange(len(scores), device=keys.device)
    order = scores.argsort(descending=True)
    count = int((scores[order].cumsum(0) <= share * scores.sum()).sum())
    return order[: max(1, count)].sort().values


def nse(
    model: EditableModel, moments: MomentSource, *, context_templates: Sequence[str] | None = None, **changes: Any
) -> Nse:
    """Make `nse` for a model; settings as in `NseSettings`, and `context_templates` to give them.

    Raises:
        UsageError: settings of other methods; a layer with experts.
    """
    settings = joint_settings(NseSettings, "nse", NSE_PRESETS, model, changes)
    if settings.keep < 1 or settings.share == 1:
        raise UsageError("nse writes strong neurons by a weight of C: leave keep out, and give a share below 1.")
    layers = check_layers(model, settings.layers or ())
    kept = {
        n: preserved_at(model, n, moments, subject_weight=settings.subject_weight, ridge=settings.ridge) for n in layers
    }
    return Nse(model, settings, kept, make_contexts(model, settings, context_templates))
