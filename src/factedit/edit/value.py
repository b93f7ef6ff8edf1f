"""v*: the value that makes the model say the new object (ROME, arXiv 2202.05262, eq. 4).

An offset δ is added to the output of the edited matrix at the last subject token and optimised so that the
target is likely after every context while the subject's essence ("{} is a") stays what it was. Many facts are
optimised in one batch, each with its own stopping and clamping; results do not depend on the company.

Only layers >= l and tokens from the last subject token on are run at each step (see `engine/resume.py`), the
vocabulary is read only at the target's and the essence's positions, and no parameter carries a gradient.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from factedit.edit.presets import RomeSettings
from factedit.edit.row_adam import RowAdam, clamp_rows
from factedit.edit.value_rows import Row, RowBatch, grouped, own_rows, request_rows, stems_of
from factedit.engine.half import at_least_float32
from factedit.engine.resume import read_out
from factedit.engine.vocabulary import likelihood_slope, normaliser
from factedit.errors import EditError
from factedit.facts import EditRequest
from factedit.memory import at_once, in_halves
from factedit.models.adapter import EditableModel

READS_AT_ONCE = 48  # rows of logits held at a time on a processor
ESSENCES_AT_ONCE = 8  # of them, a dozen numbers a word are held
COPIES = 4  # of a row of logits, of 4 bytes a word: itself, its gradient, room to make them
SHARE_OF_WEIGHTS = 0.2  # of the weights' size, for activations on a processor
SHARE_OF_FREE = 0.4  # of an accelerator's free memory, for activations
LEAST_TOKENS = 64


class Losses(NamedTuple):
    """One evaluation of eq. 4, in nats."""

    total: float
    nll: float
    kl: float
    decay: float


@dataclass(frozen=True)
class Value:
    """What the optimisation of one fact found, in float32 at least.

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


def find_values(
    model: EditableModel,
    layer: int,
    requests: Sequence[EditRequest],
    contexts: Sequence[str],
    settings: RomeSettings,
    *,
    rows: Sequence[Sequence[Row]] | None = None,
    tokens_at_once: int | None = None,
) -> list[Value]:
    """Optimise v* for every request (ROME eq. 4).

    Args:
        model: the model; unchanged.
        layer: whose matrix.
        requests: the facts.
        contexts: templates with one `{}`, the bare `"{}"` first.
        settings: learning rate, steps, weights, clamp.
        rows: per fact its rows, to add δ at another token than the subject's last; None takes `request_rows`.
        tokens_at_once: tokens from the subject on that are optimised together; None suits the memory. Facts with
            as many such tokens run together; the results do not depend on it, to rounding.

    Raises:
        RequestError: a subject or target without tokens.
        EditError: the loss is not finite.
        ResourceError: a single fact does not fit in memory.
    """
    if rows is None:
        rows = [request_rows(model, fact, request, contexts) for fact, request in enumerate(requests)]
    limit = tokens_at_once or _tokens_that_fit(model, layer)
    work = lambda facts: _find(model, layer, [rows[fact] for fact in facts], settings)  # noqa: E731
    found: dict[int, Value] = {}
    with model.frozen(), torch.enable_grad():
        for part in _parts(rows, limit):
            found |= dict(zip(part, in_halves(part, work, what="facts"), strict=True))
    return [found[fact] for fact in range(len(requests))]


def _tokens_that_fit(model: EditableModel, layer: int) -> int:
    """How many tokens' activations a share of the memory holds: of the weights' size, or of what a device has free."""
    number = torch.finfo(model.dtype).bits // 8
    per_token = (model.n_layer - layer) * (10 * model.d_model + 5 * model.d_mlp) * number
    of_weights = SHARE_OF_WEIGHTS * sum(p.numel() for p in model.lm.parameters()) * number
    fitting = at_once(model.device, per_token, on_processor=int(of_weights / per_token), share=SHARE_OF_FREE)
    return max(LEAST_TOKENS, fitting)


def _parts(rows: Sequence[Sequence[Row]], limit: int) -> Iterator[list[int]]:
    """Facts in groups of at most `limit` tokens from the subject on, those of like width together."""
    size = [sum(len(row.ids) - row.subject_last for row in own) for own in rows]
    part: list[int] = []
    for fact in sorted(range(len(rows)), key=lambda fact: size[fact]):
        if part and sum(size[n] for n in part) + size[fact] > limit:
            yield part
            part = []
        part.append(fact)
    if part:
        yield part


def _find(model: EditableModel, layer: int, rows: Sequence[Sequence[Row]], settings: RomeSettings) -> list[Value]:
    """v* of facts that are optimised together."""
    numbered = [replace(row, fact=fact) for fact, own in enumerate(rows) for row in own]
    stems = stems_of(model, numbered)
    batches = [RowBatch(model, layer, group, stems) for group in grouped(numbered, model)]
    del stems
    wide = at_least_float32(model.dtype)
    own = [tuple(found.to(wide) for found in own_rows(batches, fact)) for fact in range(len(rows))]
    norms = torch.stack([values[0].norm() for _, values in own])
    deltas, losses = _optimise(batches, norms, settings)
    return [
        # ROME eq. 3: the mean over the contexts
        Value(keys.mean(0), keys[0], values[0], deltas[fact], tuple(losses[fact]))
        for fact, (keys, values) in enumerate(own)
    ]


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

    def __init__(self, batches: Sequence[RowBatch], norms: Tensor, settings: RomeSettings) -> None:
        self._batches, self._norms, self._settings = batches, norms, settings
        self._essence_before: Tensor | None = None  # log probabilities at δ = 0, `[facts, vocab]`
        model = batches[0].model
        self._at_once = at_once(model.device, 4 * COPIES * model.vocab, on_processor=READS_AT_ONCE)
        self._gather()

    def keep_facts(self, facts: set[int]) -> None:
        """Go on with these facts only."""
        for batch in self._batches:
            batch.keep_facts(facts)
        self._gather()

    def _gather(self) -> None:
        places = [place for batch in self._batches for place in batch.reads()]
        device = self._norms.device
        # a read of an answer of `count` tokens is 1 / count of its row, and there are sum(1 / count) rows
        rows: dict[int, float] = defaultdict(float)
        for fact, _, count in places:
            rows[fact] += 1 / count if count else 0.0
        self._reads = _Reads(
            torch.tensor([fact for fact, _, _ in places], device=device),
            torch.tensor([target for _, target, _ in places], device=device),
            torch.tensor([1 / (count * rows[fact]) if count else 0.0 for fact, _, count in places], device=device),
        )

    def __call__(self, offsets: Tensor, *, gradients: bool) -> Tensor:
        """The terms `[facts, 3]` (nll, kl, decay) at δ `[facts, d_model]`; adds their sum's gradients to δ's."""
        decay = self._settings.decay * offsets.norm(dim=1) / self._norms**2
        hidden = torch.cat([batch.hidden(offsets.to(batch.values.dtype)) for batch in self._batches])
        terms = torch.zeros(len(offsets), 3, device=offsets.device)
        slopes = torch.zeros_like(hidden)
        for begin in range(0, len(hidden), self._at_once):
            part = slice(begin, begin + self._at_once)
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
            logits = read_out(self._batches[0].model, leaf)
        words, norm, target = logits.detach(), normaliser(logits), reads.target.clamp(min=0)
        found = torch.zeros(len(self._norms), 2, device=logits.device)
        log_p = norm.log_p(words[torch.arange(len(words), device=words.device), target])
        found[:, 0].index_add_(0, reads.fact, -reads.weight * log_p.to(found.dtype))
        slope = likelihood_slope(words, norm, target, reads.weight) if gradients else None
        for essence in (reads.target < 0).nonzero()[:, 0].split(ESSENCES_AT_ONCE):
            facts, own = reads.fact[essence], norm.rows(essence).log_p(words[essence].T).T
            p, drift = own.exp(), own - self._before(facts, own)
            kl = (p * drift).sum(1)
            found[facts, 1] = (self._settings.kl * kl).to(found.dtype)
            if slope is not None:
                slope[essence] = (self._settings.kl * p * (drift - kl[:, None])).to(slope.dtype)
        if slope is None:
            return found, torch.zeros_like(hidden)
        return found, torch.autograd.grad(logits, leaf, slope)[0]

    def _before(self, facts: Tensor, own: Tensor) -> Tensor:
        """The essences' log probabilities at δ = 0, where the objective is first called; `[n, vocab]` like `own`."""
        if self._essence_before is None:
            self._essence_before = own.new_full((len(self._norms), own.shape[1]), math.nan)
        if torch.isnan(self._essence_before[facts, 0]).any():
            self._essence_before[facts] = own
        return self._essence_before[facts]


def _optimise(batches: Sequence[RowBatch], norms: Tensor, settings: RomeSettings) -> tuple[Tensor, list[list[Losses]]]:
    """Adam on each fact's row of δ `[facts, d_model]`, with its own rate, stopping and clamping."""
    count, like = len(norms), batches[0].values
    delta = torch.zeros(count, like.shape[1], device=like.device, requires_grad=True)
    adam = RowAdam(delta, settings.learning_rate * (norms if settings.relative_rate else torch.ones_like(norms)))
    history: list[list[Losses]] = [[] for _ in range(count)]
    objective = _Objective(batches, norms.float(), settings)
    active = set(range(count))
    for step in range(settings.steps):
        last = step == settings.steps - 1
        delta.grad = None
        terms = objective(delta, gradients=not last)
        for fact, row in enumerate(torch.cat([terms.sum(1, keepdim=True), terms], 1).tolist()):
            if fact in active:
                history[fact].append(Losses(*row))  # ROME eq. 4
        _refuse_non_finite(history, active, batches)
        still = {fact for fact in active if history[fact][-1].total >= settings.stop_loss}
        if last or not still:
            break
        adam.step(still)
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
