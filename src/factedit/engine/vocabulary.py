"""Probabilities over the vocabulary, in pieces of it that stay in the cache.

A softmax over 262 144 words by whole tensors walks through memory once for the largest logit, once for the
differences, once for the exponentials and once for their sum, which costs a third of the product that made the logits
(docs/log.md). Here a piece of the words is taken through all of it before the next one. torch's own `log_softmax`
copies logits that have the words outermost, and over the outer dimension loses digits. Sums are kept in float32 at
least, whatever the logits' type, and gradients are written down instead of recorded, each rounded once.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from factedit.engine.differentiable import applied
from factedit.engine.half import at_least_float32, row_slices

ENTRIES_AT_ONCE = 1 << 18  # of the logits, on a processor
WIDE = 1024  # logits in a row that is walked through at full speed


class Normaliser(NamedTuple):
    """What turns the logits of some rows into probabilities, `[n]` each, in float32 at least.

    Attributes:
        largest: a row's largest logit.
        size: Σ exp(logit − largest).
    """

    largest: Tensor
    size: Tensor

    def rows(self, which: Tensor | int) -> Normaliser:
        """Return that of some of the rows, in that order (a row may come more than once), or of one."""
        return Normaliser(self.largest[which], self.size[which])

    def log_p(self, logits: Tensor) -> Tensor:
        """Return log P of logits `[…, n]`, in nats; the largest is taken off first, which loses no digits."""
        return (logits.to(self.largest.dtype) - self.largest) - self.size.log()


@torch.no_grad()
def normaliser(logits: Tensor) -> Normaliser:
    """Return the normaliser of logits `[n, vocab]`, in one walk through them."""
    wide, fold = at_least_float32(logits.dtype), _fold(logits)
    rows = _long_rows(logits, fold)
    largest = torch.full_like(rows[0], torch.finfo(wide).min, dtype=wide)
    size = torch.zeros_like(largest)
    for part in row_slices(rows, ENTRIES_AT_ONCE):
        piece = rows[part].to(wide)
        before, largest = largest, torch.maximum(largest, piece.amax(0))
        size = size * (before - largest).exp() + (piece - largest).exp_().sum(0)
    by_fold = largest.view(fold, -1)
    top = by_fold.amax(0)
    return Normaliser(top, (size.view(fold, -1) * (by_fold - top).exp()).sum(0))


def log_probability(logits: Tensor, token: Tensor | int) -> Tensor:
    """Return log P of one token per row, or of one for all, in nats, `[n]` from `[n, vocab]`; gradients reach the
    logits.
    """
    tokens = torch.as_tensor(token, device=logits.device).expand(len(logits))
    return applied(_LogProbability, logits, tokens)


@torch.no_grad()
def likelihood_slope(logits: Tensor, norm: Normaliser, tokens: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of −Σ weight · log P(token) by the logits `[n, vocab]`, in their type: weight · (softmax −
    one-hot).

    At the token itself it is −weight · (1 − P), taken before rounding: in half precision P would round to 1.

    Args:
        logits: `[n, vocab]`.
        norm: theirs.
        tokens, weight: per row, `[n]`.
    """
    slope = _weighted_softmax(logits, norm, weight)
    at_token = torch.arange(len(tokens), device=tokens.device), tokens
    slope[at_token] = (weight * norm.log_p(logits[at_token]).expm1()).to(slope.dtype)
    return slope


def divergence(before: Tensor, logits: Tensor) -> Tensor:
    """Return KL(P ‖ P̃) per row, in nats, P of logits `before` and P̃ of `logits`, `[n, vocab]`; gradients reach the
    latter.
    """
    return applied(_Divergence, before, logits)


class _LogProbability(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor) -> Tensor:
        norm = normaliser(logits)
        ctx.save_for_backward(logits, tokens, *norm)
        return norm.log_p(logits.gather(1, tokens[:, None])[:, 0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        [grad], (logits, tokens, *norm) = grads, ctx.saved_tensors
        return likelihood_slope(logits, Normaliser(*norm), tokens, -grad), None


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, before: Tensor, logits: Tensor) -> Tensor:
        was, now = normaliser(before), normaliser(logits)
        ctx.save_for_backward(before, logits, *was, *now)
        fold = _fold(before, logits)
        (old, was), (new, now) = _folded(before, was, fold), _folded(logits, now, fold)
        kl = torch.zeros_like(now.size)
        for part in row_slices(new, ENTRIES_AT_ONCE):
            log_p = was.log_p(old[part])
            kl += (log_p.exp() * (log_p - now.log_p(new[part]))).sum(0)
        return kl.view(fold, -1).sum(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        [grad], (before, logits, *norms) = grads, ctx.saved_tensors
        fold = _fold(before, logits)
        old, was = _folded(before, Normaliser(*norms[:2]), fold)
        new, now = _folded(logits, Normaliser(*norms[2:]), fold)
        grad, slope = grad.repeat(fold), torch.empty_like(new)
        for part in row_slices(new, ENTRIES_AT_ONCE):
            slope[part] = (now.log_p(new[part]).exp_() - was.log_p(old[part]).exp_()).mul_(grad)
        return None, slope.view(logits.shape[1], -1).T


def _weighted_softmax(logits: Tensor, norm: Normaliser, weight: Tensor) -> Tensor:
    """weight · softmax of logits `[n, vocab]`, in their type, with a weight per row `[n]`."""
    fold = _fold(logits)
    rows, row_norm = _folded(logits, norm, fold)
    share = weight.repeat(fold) / row_norm.size
    weighted = torch.empty_like(rows)
    for part in row_slices(rows, ENTRIES_AT_ONCE):
        weighted[part] = (rows[part].to(share.dtype) - row_norm.largest).exp_().mul_(share)
    return weighted.view(logits.shape[1], -1).T


def _fold(*logits: Tensor) -> int:
    """Return how many words to lay side by side: rows of few logits are slow to walk through, a reduction most of
    all.
    """
    n, vocab = logits[0].shape
    if not all(each.T.is_contiguous() for each in logits):
        return 1
    return math.gcd(vocab, 1 << max(1, WIDE // n).bit_length() - 1)


def _long_rows(logits: Tensor, fold: int) -> Tensor:
    """Return logits `[n, vocab]`, which the head leaves with the words outermost, seen as `[vocab / fold, fold ·
    n]`.
    """
    return logits.T.view(-1, fold * len(logits))


def _folded(logits: Tensor, norm: Normaliser, fold: int) -> tuple[Tensor, Normaliser]:
    """Return the long rows of logits, and what normalises their columns."""
    return _long_rows(logits, fold), Normaliser(norm.largest.repeat(fold), norm.size.repeat(fold))
