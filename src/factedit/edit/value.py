"""v*: the value that makes the model say the new object (ROME, arXiv 2202.05262, eq. 4).

An offset δ is added to the output of the edited matrix at the last subject token and optimised so that the
target is likely after every context while the subject's essence ("{} is a") stays what it was. Many facts are
optimised in one batch, each with its own stopping and clamping; results do not depend on the company.

Only layers >= l and tokens from the last subject token on are run at each step (see `models/resume.py`), the
vocabulary is read only at the target's and the essence's positions, and no parameter carries a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from factedit.edit.presets import RomeSettings
from factedit.errors import EditError
from factedit.facts import EditRequest, fill, with_space
from factedit.models.adapter import EditableModel
from factedit.models.positions import continuation, locate
from factedit.models.resume import Past, Segment, align, embed, read_out

ESSENCE = "{} is a"


class Losses(NamedTuple):
    """One evaluation of eq. 4, in nats."""

    total: float
    nll: float
    kl: float
    decay: float


@dataclass(frozen=True)
class Value:
    """What the optimisation of one fact found.

    Attributes:
        key: k*, the mean over the contexts of the key at the last subject token, `[d_mlp]`.
        bare_key: the key in the bare prompt, `[d_mlp]`.
        initial: v0, the matrix's output in the bare prompt, `[d_model]`.
        delta: the optimised offset δ, `[d_model]`.
        losses: one entry per evaluation of the loss.
    """

    key: Tensor
    bare_key: Tensor
    initial: Tensor
    delta: Tensor
    losses: tuple[Losses, ...]


@dataclass(frozen=True)
class _Row:
    """One row of the batch: a context of one fact, or its essence.

    Attributes:
        fact: index of the fact.
        ids: token ids; the essence ends at the subject.
        subject_last: where δ is added.
        reads: positions whose next token is scored.
        targets: those next tokens; empty for the essence.
    """

    fact: int
    ids: tuple[int, ...]
    subject_last: int
    reads: tuple[int, ...]
    targets: tuple[int, ...]


def find_values(
    model: EditableModel, layer: int, requests: Sequence[EditRequest], contexts: Sequence[str], settings: RomeSettings
) -> list[Value]:
    """Optimise v* for every request (ROME eq. 4).

    Args:
        model: the model; unchanged.
        layer: whose matrix.
        requests: the facts.
        contexts: templates with one `{}`, the bare `"{}"` first.
        settings: learning rate, steps, weights, clamp.

    Raises:
        RequestError: a subject or target without tokens.
        EditError: the loss is not finite.
    """
    rows = [row for fact, request in enumerate(requests) for row in _rows(model, fact, request, contexts)]
    batch = _Batch(model, layer, rows)
    bare = torch.tensor([next(i for i, row in enumerate(rows) if row.fact == f) for f in range(len(requests))])
    deltas, losses = _optimise(batch, batch.values[bare].norm(dim=-1), settings)
    found = []
    for fact, first in enumerate(bare.tolist()):
        inside = [i for i, row in enumerate(rows) if row.fact == fact and row.targets]
        key = batch.keys[inside].mean(0)  # ROME eq. 3
        found.append(Value(key, batch.keys[first], batch.values[first], deltas[fact], tuple(losses[fact])))
    return found


def _rows(model: EditableModel, fact: int, request: EditRequest, contexts: Sequence[str]) -> list[_Row]:
    rows = []
    for context in contexts:
        template = fill(context, request.prompt)
        prompt = fill(template, request.subject)
        ids, first = continuation(model, prompt, request.target_new)
        suffix = with_space(prompt, request.target_new)
        where = locate(model, template, request.subject, suffix=suffix).subject_last
        reads = tuple(range(first - 1, len(ids) - 1))
        rows.append(_Row(fact, ids[:-1], where, reads, ids[first:]))
    essence = locate(model, ESSENCE, request.subject)
    where = essence.subject_last
    return [*rows, _Row(fact, essence.ids[: where + 1], where, (where,), ())]


class _Batch:
    """The rows, run once up to the edited matrix; `losses` resumes there.

    Attributes:
        keys, values: `[rows, d_mlp]`, `[rows, d_model]` at the last subject tokens, without δ.
    """

    @torch.no_grad()
    def __init__(self, model: EditableModel, layer: int, rows: Sequence[_Row]) -> None:
        self.model, self.layer, self.rows = model, layer, rows
        batch = align([row.ids for row in rows], [row.subject_last for row in rows], device=model.device)
        self._mask, split = batch.mask, batch.split
        whole = Segment(model, batch.mask, embeddings=embed(model, batch.ids))
        hidden = whole.run(whole.start, range(layer))
        self._past: Past | None = None
        if split:
            before = Segment(model, batch.mask[:, :split])
            before.run(hidden[:, :split], range(layer, model.n_layer), keep=True)
            self._past = before.past()
        self._hidden = hidden[:, split:].contiguous()
        self.facts = torch.tensor([row.fact for row in rows])
        self.keys, self.values = self._first_keys()
        self._take(torch.arange(len(rows)))
        self._essence_before: Tensor | None = None

    def _first_keys(self) -> tuple[Tensor, Tensor]:
        seen: list[tuple[Tensor, Tensor]] = []
        segment = Segment(self.model, self._mask[:, : self._mask.shape[1] - self._hidden.shape[1] + 1], past=self._past)
        with self.model.on_matrix(self.layer, lambda k, v: seen.append((k[:, 0].clone(), v[:, 0].clone()))):
            segment.run(self._hidden[:, :1], range(self.layer, self.layer + 1))
        return seen[0]

    def keep_facts(self, facts: set[int]) -> None:
        """Go on with the rows of these facts only."""
        self._take(torch.tensor([i for i, row in enumerate(self.rows) if row.fact in facts]))

    def _take(self, taken: Tensor) -> None:
        self._taken = taken
        past = None if self._past is None else self._past.select(taken.to(self._mask.device))
        self._segment = Segment(self.model, self._mask[taken], past=past)
        place = [
            (r, pos - self.rows[i].subject_last, target)
            for r, i in enumerate(taken.tolist())
            for pos, target in zip(self.rows[i].reads, self.rows[i].targets or (-1,), strict=True)
        ]
        self._read_row, self._read_column, self._target = torch.tensor(place).T

    def losses(self, offsets: Tensor) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Negative log-likelihood and KL of the facts in play.

        Args:
            offsets: δ per fact `[facts, d_model]`.

        Returns:
            nll and kl, each a scalar per fact.
        """
        facts = self.facts[self._taken]
        own = offsets[facts]
        first = torch.zeros(self._hidden.shape[1], dtype=own.dtype, device=own.device)
        first[0] = 1.0
        add = lambda _key, value: value + own[:, None] * first[:, None]  # noqa: E731
        with self.model.on_matrix(self.layer, add):
            hidden = self._segment.run(self._hidden[self._taken], range(self.layer, self.model.n_layer))
        logits = read_out(self.model, hidden[self._read_row, self._read_column])
        return self._nll(logits, facts), self._kl(logits, facts)

    def _nll(self, logits: Tensor, facts: Tensor) -> dict[int, Tensor]:
        scored = (self._target >= 0).nonzero()[:, 0]
        chosen = logits[scored]
        picked = chosen.gather(1, self._target[scored, None].to(chosen.device))[:, 0].float()
        log_p = picked - chosen.float().logsumexp(-1)
        per_row: dict[int, list[Tensor]] = {}
        for value, row in zip(log_p, self._read_row[scored].tolist(), strict=True):
            per_row.setdefault(row, []).append(value)
        per_fact: dict[int, list[Tensor]] = {}
        for row, values in per_row.items():
            per_fact.setdefault(int(facts[row]), []).append(-torch.stack(values).mean())
        return {fact: torch.stack(values).mean() for fact, values in per_fact.items()}

    def _kl(self, logits: Tensor, facts: Tensor) -> dict[int, Tensor]:
        essence = (self._target < 0).nonzero()[:, 0]
        now = logits[essence].float().log_softmax(-1)
        here = facts[self._read_row[essence]].tolist()
        if self._essence_before is None:  # the first evaluation, at δ = 0, is the unedited model
            self._essence_before = now.detach()
        before = self._essence_before[here]
        return dict(zip(here, (now.exp() * (now - before)).sum(-1), strict=True))


def _optimise(batch: _Batch, norms: Tensor, settings: RomeSettings) -> tuple[list[Tensor], list[list[Losses]]]:
    """Adam on each fact's δ, with its own stopping and clamping."""
    count, d_model, device = len(norms), batch.values.shape[1], batch.values.device
    deltas = [torch.zeros(d_model, device=device, requires_grad=True) for _ in range(count)]
    history: list[list[Losses]] = [[] for _ in range(count)]
    optimiser = torch.optim.Adam(deltas, lr=settings.learning_rate)
    active = set(range(count))
    for step in range(settings.steps):
        nll, kl = batch.losses(torch.stack(deltas).to(batch.values.dtype))
        totals = {}
        for fact in sorted(active):
            decay = settings.decay * deltas[fact].norm() / norms[fact] ** 2
            totals[fact] = nll[fact] + settings.kl * kl[fact] + decay  # ROME eq. 4
            terms = (totals[fact], nll[fact], settings.kl * kl[fact], decay)
            history[fact].append(Losses(*(float(term) for term in terms)))
        _refuse_non_finite(history, active)
        done = {fact for fact in active if history[fact][-1].total < settings.stop_loss}
        if step == settings.steps - 1 or done == active:
            break
        if done:
            active -= done
            batch.keep_facts(active)
            continue_from = {fact: totals[fact] for fact in active}
        else:
            continue_from = totals
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(continue_from.values())).sum().backward()
        for fact in set(range(count)) - active:
            deltas[fact].grad = None  # a finished fact rests: Adam's momentum must not move it
        optimiser.step()
        _clamp(deltas, norms, settings.clamp)
    return [delta.detach().to(batch.values.dtype) for delta in deltas], history


@torch.no_grad()
def _clamp(deltas: Sequence[Tensor], norms: Tensor, clamp: float) -> None:
    """Project every δ to ‖δ‖ <= clamp · ‖v0‖."""
    for delta, norm in zip(deltas, norms, strict=True):
        size = delta.norm()
        if size > clamp * norm:
            delta.mul_(clamp * norm / size)


def _refuse_non_finite(history: Sequence[Sequence[Losses]], active: set[int]) -> None:
    for fact in active:
        if not torch.isfinite(torch.tensor(history[fact][-1])).all():
            raise EditError(
                f"The loss of fact {fact} is not finite at step {len(history[fact]) - 1}: {history[fact][-1]}. "
                "The model is unchanged. Check the weights for NaN, or lower the learning rate."
            )
