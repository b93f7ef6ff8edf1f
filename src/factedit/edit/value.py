"""v*: the value that makes the model say the new object (ROME, arXiv 2202.05262, eq. 4).

An offset δ is added to the output of the edited matrix at the last subject token and optimised so that the
target is likely after every context while the subject's essence ("{} is a") stays what it was. Many facts are
optimised in one batch, each with its own stopping and clamping; results do not depend on the company.

Only layers >= l and tokens from the last subject token on are run at each step (see `models/resume.py`), the
vocabulary is read only at the target's and the essence's positions, and no parameter carries a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
        context: index of the context; the bare prompt is 0.
        ids: token ids; the essence ends at the subject.
        subject_last: where δ is added.
        reads: positions whose next token is scored.
        targets: those next tokens; empty for the essence.
    """

    fact: int
    context: int
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
    groups = _grouped(rows)
    with model.frozen(), torch.enable_grad():
        batches = [_Batch(model, layer, group) for group in groups]
        own = [_own_rows(batches, fact) for fact in range(len(requests))]
        norms = torch.stack([values[0].norm() for _, values in own])
        deltas, losses = _optimise(batches, norms, settings)
    return [
        # ROME eq. 3: the mean over the contexts
        Value(keys.mean(0), keys[0], values[0], deltas[fact], tuple(losses[fact]))
        for fact, (keys, values) in enumerate(own)
    ]


def _grouped(rows: Sequence[_Row]) -> list[list[_Row]]:
    """Rows with as many tokens from the subject on run together: no padding behind, and essences cost one token."""
    groups: dict[int, list[_Row]] = {}
    for row in rows:
        groups.setdefault(len(row.ids) - row.subject_last, []).append(row)
    return [groups[width] for width in sorted(groups)]


def _own_rows(batches: Sequence[_Batch], fact: int) -> tuple[Tensor, Tensor]:
    """Keys and values of a fact's context rows, the bare prompt first."""
    found = [(b.keys[i], b.values[i], row) for b in batches for i, row in enumerate(b.rows) if row.fact == fact]
    found = sorted((f for f in found if f[2].targets), key=lambda f: f[2].context)
    return torch.stack([key for key, _, _ in found]), torch.stack([value for _, value, _ in found])


def _rows(model: EditableModel, fact: int, request: EditRequest, contexts: Sequence[str]) -> list[_Row]:
    rows = []
    for number, context in enumerate(contexts):
        template = fill(context, request.prompt)
        prompt = fill(template, request.subject)
        ids, first = continuation(model, prompt, request.target_new)
        suffix = with_space(prompt, request.target_new)
        where = locate(model, template, request.subject, suffix=suffix).subject_last
        reads = tuple(range(first - 1, len(ids) - 1))
        rows.append(_Row(fact, number, ids[:-1], where, reads, ids[first:]))
    essence = locate(model, ESSENCE, request.subject)
    where = essence.subject_last
    return [*rows, _Row(fact, -1, essence.ids[: where + 1], where, (where,), ())]


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
        self._facts = torch.tensor([row.fact for row in rows])
        self.keys, self.values = self._first_keys()
        self._essence_before: dict[int, Tensor] = {}
        self._take(torch.arange(len(rows)))

    def _first_keys(self) -> tuple[Tensor, Tensor]:
        seen: list[tuple[Tensor, Tensor]] = []
        segment = Segment(self.model, self._mask[:, : self._mask.shape[1] - self._hidden.shape[1] + 1], past=self._past)
        with self.model.on_matrix(self.layer, lambda k, v: seen.append((k[:, 0].clone(), v[:, 0].clone()))):
            segment.run(self._hidden[:, :1], range(self.layer, self.layer + 1))
        return seen[0]

    def keep_facts(self, facts: set[int]) -> None:
        """Go on with the rows of these facts only."""
        kept = [i for i in self._taken.tolist() if self.rows[i].fact in facts]
        if len(kept) < len(self._taken):
            self._take(torch.tensor(kept, dtype=torch.long))

    def _take(self, taken: Tensor) -> None:
        self._taken = taken
        if not len(taken):
            return
        past = None if self._past is None else self._past.select(taken.to(self._mask.device))
        self._segment = Segment(self.model, self._mask[taken], past=past)
        place = [
            (r, pos - self.rows[i].subject_last, target)
            for r, i in enumerate(taken.tolist())
            for pos, target in zip(self.rows[i].reads, self.rows[i].targets or (-1,), strict=True)
        ]
        self._read_row, self._read_column, self._target = torch.tensor(place).T

    def hidden(self, offsets: Tensor) -> Tensor:
        """Final hidden states `[reads, d_model]` at the positions that are read, with δ `[facts, d_model]` added."""
        if not len(self._taken):
            return self._hidden.new_zeros(0, self.model.d_model)
        own = offsets[self._facts[self._taken]]
        first = torch.zeros(self._hidden.shape[1], dtype=own.dtype, device=own.device)
        first[0] = 1.0
        add = lambda _key, value: value + own[:, None] * first[:, None]  # noqa: E731
        with self.model.on_matrix(self.layer, add):
            hidden = self._segment.run(self._hidden[self._taken], range(self.layer, self.model.n_layer))
        return hidden[self._read_row, self._read_column]

    def losses(self, logits: Tensor, into: _FactLosses) -> None:
        """Add the rows' losses, from the logits `[reads, vocab]` of `hidden`, to their facts'."""
        if not len(self._taken):
            return
        log_p = logits.float().log_softmax(-1)
        of_row: dict[int, list[Tensor]] = {}
        for read, (row, target) in enumerate(zip(self._read_row.tolist(), self._target.tolist(), strict=True)):
            fact = self.rows[int(self._taken[row])].fact
            if target >= 0:
                of_row.setdefault(row, []).append(-log_p[read, target])
                continue
            before = self._essence_before.setdefault(fact, log_p[read].detach())  # first called at δ = 0
            into.kl[fact] = (log_p[read].exp() * (log_p[read] - before)).sum()
        for row, terms in of_row.items():
            fact = self.rows[int(self._taken[row])].fact
            into.nll.setdefault(fact, []).append(torch.stack(terms).mean())


@dataclass
class _FactLosses:
    """Per fact the negative log-likelihood of each context row, and the essence's KL."""

    nll: dict[int, list[Tensor]] = field(default_factory=dict)
    kl: dict[int, Tensor] = field(default_factory=dict)


def _evaluate(batches: Sequence[_Batch], offsets: Tensor) -> _FactLosses:
    """One evaluation of the losses of all facts in play: the vocabulary is read in one call."""
    losses = _FactLosses()
    hidden = [batch.hidden(offsets) for batch in batches]
    logits = read_out(batches[0].model, torch.cat(hidden))
    for batch, part in zip(batches, logits.split([len(h) for h in hidden]), strict=True):
        batch.losses(part, losses)
    return losses


def _optimise(
    batches: Sequence[_Batch], norms: Tensor, settings: RomeSettings
) -> tuple[list[Tensor], list[list[Losses]]]:
    """Adam on each fact's δ, with its own stopping and clamping."""
    count, like = len(norms), batches[0].values
    deltas = [torch.zeros(like.shape[1], device=like.device, requires_grad=True) for _ in range(count)]
    history: list[list[Losses]] = [[] for _ in range(count)]
    optimiser = torch.optim.Adam(deltas, lr=settings.learning_rate)
    active = set(range(count))
    for step in range(settings.steps):
        found = _evaluate(batches, torch.stack(deltas).to(like.dtype))
        totals = {}
        for fact in sorted(active):
            nll, kl = torch.stack(found.nll[fact]).mean(), settings.kl * found.kl[fact]
            decay = settings.decay * deltas[fact].norm() / norms[fact] ** 2
            totals[fact] = nll + kl + decay  # ROME eq. 4
            history[fact].append(Losses(*(term.item() for term in (totals[fact], nll, kl, decay))))
        _refuse_non_finite(history, active)
        active -= {fact for fact in totals if history[fact][-1].total < settings.stop_loss}
        if step == settings.steps - 1 or not active:
            break
        optimiser.zero_grad(set_to_none=True)
        torch.stack([totals[fact] for fact in sorted(active)]).sum().backward()
        for fact in set(range(count)) - active:
            deltas[fact].grad = None  # a finished fact rests: Adam's momentum must not move it
        optimiser.step()
        _clamp(deltas, norms, settings.clamp)
        for batch in batches:
            batch.keep_facts(active)
    return [delta.detach().to(like.dtype) for delta in deltas], history


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
