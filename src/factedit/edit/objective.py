"""The loss of a value's optimisation (ROME, arXiv 2202.05262, eq. 4), and Adam on many facts' offsets at once.

MEMIT (arXiv 2210.07229) minimises the same loss for an offset on a block's output, PMET (arXiv 2308.08742) for two
offsets at once: what differs is where the rows add δ (`value_rows.RowBatch` and its kinds), and when to stop.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from factedit.edit.endings import Stop
from factedit.edit.row_adam import RowAdam, clamp_rows
from factedit.edit.value_rows import RowBatch, hidden_states
from factedit.engine import budget
from factedit.engine.resume import read_out
from factedit.engine.vocabulary import likelihood_slope, normaliser
from factedit.errors import EditError


class Losses(NamedTuple):
    """One evaluation of eq. 4, in nats."""

    total: float
    nll: float
    kl: float
    decay: float


_told: ContextVar[Callable[[int, list[Losses]], None] | None] = ContextVar("who is told losses", default=None)


@contextmanager
def losses_told(listener: Callable[[int, list[Losses]], None]) -> Iterator[None]:
    """Inside, every evaluation of the loss is told as it is made.

    Args:
        listener: called with the number of the evaluation, from 0, and the losses of the facts that go on.
    """
    token = _told.set(listener)
    try:
        yield
    finally:
        _told.reset(token)


class ValueSettings(Protocol):
    """What the optimisation reads off a method's settings; see `RomeSettings`."""

    @property
    def learning_rate(self) -> float: ...  # noqa: D102
    @property
    def relative_rate(self) -> bool: ...  # noqa: D102
    @property
    def steps(self) -> int: ...  # noqa: D102
    @property
    def decay(self) -> float: ...  # noqa: D102
    @property
    def kl(self) -> float: ...  # noqa: D102
    @property
    def clamp(self) -> float: ...  # noqa: D102
    @property
    def stop_loss(self) -> float: ...  # noqa: D102
    @property
    def stop(self) -> Stop: ...  # noqa: D102
    def model_dump(self, *, mode: str) -> dict[str, Any]: ...  # noqa: D102


class Rule(Protocol):
    """A reason to stop beside the total loss; it may also weigh a fact's likelihood (`Objective.nll_factor`)."""

    def stopping(self, losses: Mapping[int, Losses], objective: Objective) -> set[int]:
        """Return the facts that stop here, before they are moved.

        Args:
            losses: of the facts that would go on, at this evaluation.
            objective: with what was read at it (`Objective.tokens`).
        """
        ...


MakeRule = Callable[[], Rule]


class TokenRead(NamedTuple):
    """How one target token of a row did at an evaluation.

    Attributes:
        fact, context: whose row; the bare prompt is context 0.
        log_p: the token's log probability, in nats.
        first: whether it is ranked first.
    """

    fact: int
    context: int
    log_p: float
    first: bool


class _Reads(NamedTuple):
    """Where the vocabulary is read, one entry per read of all batches.

    Attributes:
        fact: whose.
        target: the token that is scored; -1 reads a next token that is to stay what it was, as the essence's.
        weight: its share of the fact's negative log-likelihood: 1 / (contexts · target tokens).
        kl: weight of its divergence.
        slot: of what it was.
    """

    fact: Tensor
    target: Tensor
    weight: Tensor
    kl: Tensor
    slot: Tensor


class Objective:
    """Eq. 4 over the batches, for the facts that are still optimised.

    Args:
        batches: the rows.
        norms: ‖v0‖ per offset.
        settings: weights of the terms.

    Attributes:
        nll_factor: per fact, what its negative log-likelihood counts in its total loss.
    """

    def __init__(self, batches: Sequence[RowBatch], norms: Tensor, settings: ValueSettings) -> None:
        self._batches, self._norms, self._settings = batches, norms, settings
        self._parts = batches[0].parts
        self.nll_factor = torch.ones(len(norms) // self._parts, device=norms.device)
        self._seen: tuple[list[Tensor], list[Tensor]] = [], []
        self._essence_before: Tensor | None = None  # log probabilities at δ = 0, `[slots, vocab]`
        self._slots: dict[tuple[int, int], int] = {}  # of fact and context
        model = batches[0].model
        self._at_once = budget.reads_optimised(model)
        self._gather()

    def keep_facts(self, facts: set[int]) -> None:
        """Go on with these facts only."""
        for batch in self._batches:
            batch.keep_facts(facts)
        self._gather()

    def _gather(self) -> None:
        self._places = places = [place for batch in self._batches for place in batch.reads()]
        device = self._norms.device
        # a read of an answer of `count` tokens is 1 / count of its row, and there are sum(1 / count) rows
        rows: dict[int, float] = defaultdict(float)
        for fact, _, _, count, _ in places:
            rows[fact] += 1 / count if count else 0.0
        for fact, context, target, _, _ in places:
            if target < 0:
                self._slots.setdefault((fact, context), len(self._slots))
        kls = [self._settings.kl if weight is None else weight for *_, weight in places]
        self._reads = _Reads(
            torch.tensor([place[0] for place in places], device=device),
            torch.tensor([place[2] for place in places], device=device),
            torch.tensor([1 / (n * rows[fact]) if n else 0.0 for fact, _, _, n, _ in places], device=device),
            torch.tensor(kls, device=device, dtype=torch.float64),
            torch.tensor([self._slots.get(place[:2], -1) for place in places], device=device),
        )

    def __call__(self, offsets: Tensor, *, gradients: bool) -> Tensor:
        """Return the terms `[facts, 3]` (nll, kl, decay) at δ `[parts · facts, d_model]`; adds their sum's gradient to
        δ's.
        """
        # beside ROME eq. 4, its weight decay (appendix E.5) as in the published program: ‖δ‖ / ‖v0‖²
        each = self._settings.decay * offsets.norm(dim=1) / self._norms**2
        decay = each.view(self._parts, -1).sum(0)
        self._seen = [], []
        hidden = hidden_states(self._batches, offsets.to(self._batches[0].values.dtype))
        terms = torch.zeros(len(decay), 3, device=offsets.device)
        slopes = torch.zeros_like(hidden)
        for begin in range(0, len(hidden), self._at_once):
            part = slice(begin, begin + self._at_once)
            reads = _Reads(*(values[part] for values in self._reads))
            losses, slopes[part] = self._losses(hidden[part].detach(), reads, gradients)
            terms[:, :2] += losses
        terms[:, 2] = decay.detach()
        if gradients:
            torch.autograd.backward([hidden, decay], [slopes, torch.ones_like(decay)])
        return terms

    def tokens(self) -> list[TokenRead]:
        """Return the target tokens of the facts that are still optimised, as the last evaluation read them."""
        log_p, first = (torch.cat(parts).tolist() for parts in self._seen)
        return [
            TokenRead(fact, context, *read)
            for (fact, context, target, _, _), *read in zip(self._places, log_p, first, strict=True)
            if target >= 0
        ]

    def _losses(self, hidden: Tensor, reads: _Reads, gradients: bool) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood and weighted KL per fact `[facts, 2]` of some reads, and their sum's gradient.

        The gradient by the logits is written down instead of recorded: softmax minus the target for the likelihood,
        p · (log p − log p_before − KL) for the essence, so that a third of the vocabulary's traffic is enough.
        """
        leaf = hidden.requires_grad_(gradients)
        with torch.set_grad_enabled(gradients):
            logits = read_out(self._batches[0].model, leaf)
        words, norm, target = logits.detach(), normaliser(logits), reads.target.clamp(min=0)
        terms = torch.zeros(len(self.nll_factor), 2, device=logits.device)
        scored = words[torch.arange(len(words), device=words.device), target]
        log_p = norm.log_p(scored)
        self._seen[0].append(log_p)
        self._seen[1].append(scored.to(norm.largest.dtype) >= norm.largest)
        # ROME eq. 4a: the mean over contexts of −log P̃(o*)
        terms[:, 0].index_add_(0, reads.fact, -reads.weight * log_p.to(terms.dtype))
        weight = reads.weight * self.nll_factor[reads.fact]
        slope = likelihood_slope(words, norm, target, weight) if gradients else None
        for essence in (reads.target < 0).nonzero()[:, 0].split(budget.ESSENCES):
            facts, essence_log_p = reads.fact[essence], norm.rows(essence).log_p(words[essence].T).T
            p, drift = essence_log_p.exp(), essence_log_p - self._before(reads.slot[essence], essence_log_p)
            kl = (p * drift).sum(1)  # ROME eq. 4b: KL(P̃ ‖ P), P̃ edited
            weight = reads.kl[essence].to(p.dtype)
            terms[:, 1].index_add_(0, facts, (weight * kl).to(terms.dtype))
            if slope is not None:
                slope[essence] = (weight[:, None] * p * (drift - kl[:, None])).to(slope.dtype)
        if slope is None:
            return terms, torch.zeros_like(hidden)
        return terms, torch.autograd.grad(logits, leaf, slope)[0]

    def _before(self, slots: Tensor, log_p: Tensor) -> Tensor:
        """Return the log probabilities at δ = 0, where the objective is first called; `[n, vocab]` like `log_p`."""
        if self._essence_before is None:
            self._essence_before = log_p.new_full((len(self._slots), log_p.shape[1]), math.nan)
        if torch.isnan(self._essence_before[slots, 0]).any():
            self._essence_before[slots] = log_p
        return self._essence_before[slots]


def optimise(
    batches: Sequence[RowBatch], norms: Tensor, settings: ValueSettings, rule: Rule | None = None
) -> tuple[Tensor, list[list[Losses]]]:
    """Run Adam on each row of δ `[parts · facts, d_model]`, with its own rate and clamp, each fact with its own stop.

    Args:
        batches: the rows of the facts.
        norms: ‖v0‖ of each row of δ.
        settings: learning rate, steps, weights, clamp, stop.
        rule: a further reason to stop.

    Returns:
        δ, and every fact's losses, one entry per evaluation.
    """
    like, parts = batches[0].values, batches[0].parts
    count = len(norms) // parts
    delta = torch.zeros(len(norms), like.shape[1], device=like.device, requires_grad=True)
    adam = RowAdam(delta, settings.learning_rate * (norms if settings.relative_rate else torch.ones_like(norms)))
    history: list[list[Losses]] = [[] for _ in range(count)]
    objective = Objective(batches, norms.float(), settings)
    active = set(range(count))
    for step in range(settings.steps):
        last = step == settings.steps - 1
        delta.grad = None
        terms = objective(delta, gradients=not last)
        total = terms.sum(1, keepdim=True) + (objective.nll_factor - 1)[:, None] * terms[:, :1]
        for fact, row in enumerate(torch.cat([total, terms], 1).tolist()):
            if fact in active:
                history[fact].append(Losses(*row))  # ROME eq. 4
        _refuse_non_finite(history, active, batches)
        if (tell := _told.get()) is not None:
            tell(step, [history[fact][-1] for fact in sorted(active)])
        still = {fact for fact in active if history[fact][-1].total >= settings.stop_loss}
        if rule is not None:
            still -= rule.stopping({fact: history[fact][-1] for fact in still}, objective)
        if last or not still:
            break
        adam.step({fact + part * count for fact in still for part in range(parts)})
        clamp_rows(delta, norms, settings.clamp)
        if still != active:
            active = still
            objective.keep_facts(active)
    return delta.detach().to(norms), history


def _refuse_non_finite(history: Sequence[Sequence[Losses]], active: set[int], batches: Sequence[RowBatch]) -> None:
    for fact in active:
        if not all(map(math.isfinite, history[fact][-1])):
            bare = next(row for b in batches for row in b.rows if (row.fact, row.context) == (fact, 0))
            text = batches[0].model.tokenizer.decode(bare.ids, skip_special_tokens=True)
            raise EditError(
                f"The loss of the fact {text!r} is not finite at step {len(history[fact]) - 1}: "
                f"{history[fact][-1]}. The model is unchanged. Check the weights for NaN, or lower the learning rate."
            )
