"""v*: the value that makes the model say the new object (ROME, arXiv 2202.05262, eq. 4).

An offset δ is added to the output of the edited matrix at the last subject token and optimised so that the
target is likely after every context while the subject's essence ("{} is a") stays what it was. Many facts are
optimised in one batch, each with its own stopping and clamping; results do not depend on the company.

Only layers >= l and tokens from the last subject token on are run at each step (see `models/resume.py`), the
vocabulary is read only at the target's and the essence's positions, and no parameter carries a gradient.
"""

from __future__ import annotations

from collections import Counter
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
READS_AT_ONCE = 64  # rows of logits held at a time


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
            (r, position - self.rows[i].subject_last)
            for r, i in enumerate(taken.tolist())
            for position in self.rows[i].reads
        ]
        self._read_row, self._read_column = torch.tensor(place, device=self._mask.device).T

    def reads(self) -> list[tuple[int, int, int]]:
        """Per read of the rows in play: fact, target token, target tokens of the row (-1 and 0: the essence)."""
        rows = [self.rows[i] for i in self._taken.tolist()]
        return [(row.fact, target, len(row.targets)) for row in rows for target in row.targets or (-1,)]

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


class _Reads(NamedTuple):
    """Where the vocabulary is read, one entry per read of all batches.

    Attributes:
        fact: whose.
        target: the token that is scored; -1 reads an essence.
        weight: its share of the fact's negative log-likelihood: 1 / (contexts · target tokens).
    """

    fact: Tensor
    target: Tensor
    weight: Tensor


class _Objective:
    """Eq. 4 over the batches, in play for some of the facts.

    Args:
        batches: the rows.
        norms: ‖v0‖ per fact.
        settings: weights of the terms.
    """

    def __init__(self, batches: Sequence[_Batch], norms: Tensor, settings: RomeSettings) -> None:
        self._batches, self._norms, self._settings = batches, norms, settings
        self._essence_before: dict[int, Tensor] = {}
        self._gather()

    def keep_facts(self, facts: set[int]) -> None:
        """Go on with these facts only."""
        for batch in self._batches:
            batch.keep_facts(facts)
        self._gather()

    def _gather(self) -> None:
        places = [place for batch in self._batches for place in batch.reads()]
        of_fact = Counter(fact for fact, _, count in places if count)
        device = self._norms.device
        # a read of an answer of `count` tokens is 1 / count of its row, and there are sum(1 / count) rows
        rows = {fact: sum(1 / count for f, _, count in places if f == fact and count) for fact in of_fact}
        self._reads = _Reads(
            torch.tensor([fact for fact, _, _ in places], device=device),
            torch.tensor([target for _, target, _ in places], device=device),
            torch.tensor([1 / (count * rows[fact]) if count else 0.0 for fact, _, count in places], device=device),
        )

    def __call__(self, deltas: Sequence[Tensor], *, gradients: bool) -> Tensor:
        """The terms `[facts, 3]` (nll, kl, decay) at these offsets; adds their sum's gradients to `deltas`."""
        offsets = torch.stack(list(deltas))
        decay = self._settings.decay * offsets.norm(dim=1) / self._norms**2
        hidden = torch.cat([batch.hidden(offsets.to(batch.values.dtype)) for batch in self._batches])
        terms = torch.zeros(len(offsets), 3, device=offsets.device)
        slopes = torch.zeros_like(hidden)
        for begin in range(0, len(hidden), READS_AT_ONCE):
            part = slice(begin, begin + READS_AT_ONCE)
            reads = _Reads(*(values[part] for values in self._reads))
            found, slopes[part] = self._losses(hidden[part].detach(), reads, gradients)
            terms[:, :2] += found
        terms[:, 2] = decay.detach()
        if gradients:
            torch.autograd.backward([hidden, decay], [slopes, torch.ones_like(decay)])
        return terms

    def _losses(self, hidden: Tensor, reads: _Reads, gradients: bool) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood and weighted KL per fact `[facts, 2]` of some reads, and their sum's gradient.

        The gradient by the logits is written down instead of recorded: softmax minus the target for the likelihood,
        p · (log p − log p_before − KL) for the essence, so that a third of the vocabulary's traffic is enough.
        """
        leaf = hidden.requires_grad_(gradients)
        with torch.set_grad_enabled(gradients):
            logits = read_out(self._batches[0].model, leaf).float()
        log_p = logits.detach() - logits.detach().logsumexp(-1, keepdim=True)
        target = reads.target.clamp(min=0)[:, None]
        found = log_p.new_zeros(len(self._norms), 2)
        found[:, 0].index_add_(0, reads.fact, -reads.weight * log_p.gather(1, target)[:, 0])
        slope = log_p.exp().mul_(reads.weight[:, None]).scatter_add_(1, target, -reads.weight[:, None])
        for at in (reads.target < 0).nonzero()[:, 0].tolist():
            fact, own = int(reads.fact[at]), log_p[at]
            drift = own - self._essence_before.setdefault(fact, own.clone())  # first called at δ = 0
            kl = (own.exp() * drift).sum()
            found[fact, 1] = self._settings.kl * kl
            slope[at] = self._settings.kl * own.exp() * (drift - kl)
        return found, torch.autograd.grad(logits, leaf, slope)[0] if gradients else torch.zeros_like(hidden)


def _optimise(
    batches: Sequence[_Batch], norms: Tensor, settings: RomeSettings
) -> tuple[list[Tensor], list[list[Losses]]]:
    """Adam on each fact's δ, with its own stopping and clamping."""
    count, like = len(norms), batches[0].values
    deltas = [torch.zeros(like.shape[1], device=like.device, requires_grad=True) for _ in range(count)]
    history: list[list[Losses]] = [[] for _ in range(count)]
    optimiser = torch.optim.Adam(deltas, lr=settings.learning_rate)
    objective = _Objective(batches, norms.float(), settings)
    active = set(range(count))
    for step in range(settings.steps):
        last = step == settings.steps - 1
        optimiser.zero_grad(set_to_none=True)
        terms = objective(deltas, gradients=not last)
        for fact, (total, row) in enumerate(zip(terms.sum(1).tolist(), terms.tolist(), strict=True)):
            if fact in active:
                history[fact].append(Losses(total, *row))  # ROME eq. 4
        _refuse_non_finite(history, active)
        still = {fact for fact in active if history[fact][-1].total >= settings.stop_loss}
        if last or not still:
            break
        for fact in set(range(count)) - still:
            deltas[fact].grad = None  # a finished fact rests: Adam's momentum must not move it
        optimiser.step()
        _clamp(deltas, norms, settings.clamp)
        if still != active:
            active = still
            objective.keep_facts(active)
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
