"""Probabilities over the vocabulary, in pieces of it that stay in the cache.

A softmax over 262 144 words by whole tensors walks through memory once for the largest logit, once for the
differences, once for the exponentials, once for their sum; with few rows that costs a third of the product that made
the logits (docs/log.md). Here a piece of the words is taken through all of it before the next one. Sums are kept in
float32 at least, whatever the logits' type, and gradients are written down instead of recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from factedit.models.half import at_least_float32

ENTRIES_AT_ONCE = 1 << 18  # of the logits, on a processor
WIDE = 1024  # columns at which the largest of each is found at full speed


class Normaliser(NamedTuple):
    """What turns logits into probabilities, `[n]` each, in float32 at least.

    Attributes:
        largest: a row's largest logit.
        size: Σ exp(logit − largest).
    """

    largest: Tensor
    size: Tensor

    def rows(self, which: Tensor | int) -> Normaliser:
        """Of some of the rows, in that order (a row may come more than once)."""
        return Normaliser(self.largest[which], self.size[which])

    def log_p(self, logits: Tensor) -> Tensor:
        """Log probabilities of logits `[…, n]`, in nats; the largest is taken off first, which loses no digits."""
        return (logits.to(self.largest.dtype) - self.largest) - self.size.log()


@torch.no_grad()
def normaliser(logits: Tensor) -> Normaliser:
    """Of logits `[n, vocab]`, in one walk through them."""
    wide, words = at_least_float32(logits.dtype), logits.T  # as the head leaves them: words outermost
    largest = torch.full_like(words[0], torch.finfo(wide).min, dtype=wide)
    size = torch.zeros_like(largest)
    for part in _parts(words):
        piece = words[part].to(wide)
        before, largest = largest, torch.maximum(largest, _largest(piece))
        size = size * (before - largest).exp() + (piece - largest).exp_().sum(0)
    return Normaliser(largest, size)


@torch.no_grad()
def weighted_softmax(logits: Tensor, norm: Normaliser, weight: Tensor) -> Tensor:
    """weight · softmax of logits `[n, vocab]`, in their type, with a weight per row `[n]`."""
    words, share = logits.T, weight / norm.size
    found = torch.empty_like(words)
    for part in _parts(words):
        found[part] = (words[part].to(share.dtype) - norm.largest).exp_().mul_(share)
    return found.T


def log_probability(logits: Tensor, token: Tensor | int) -> Tensor:
    """log P of one token per row, or of one for all, in nats, `[n]` from `[n, vocab]`; gradients reach the logits."""
    tokens = torch.as_tensor(token, device=logits.device).expand(len(logits))
    found: Tensor = _LogProbability.apply(logits, tokens)
    return found


def divergence(before: Tensor, logits: Tensor) -> Tensor:
    """KL(P ‖ P̃) per row, in nats, P of logits `before` and P̃ of `logits`, `[n, vocab]`; gradients reach the latter."""
    found: Tensor = _Divergence.apply(before, logits)
    return found


class _LogProbability(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor) -> Tensor:
        norm = normaliser(logits)
        ctx.save_for_backward(logits, tokens, *norm)
        return norm.log_p(logits.gather(1, tokens[:, None])[:, 0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        [grad], (logits, tokens, *norm) = grads, ctx.saved_tensors
        slope = weighted_softmax(logits, Normaliser(*norm), -grad)
        slope[torch.arange(len(tokens), device=tokens.device), tokens] += grad.to(slope.dtype)  # scatter_add_ is slow
        return slope, None


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, before: Tensor, logits: Tensor) -> Tensor:
        was, now = normaliser(before), normaliser(logits)
        ctx.save_for_backward(before, logits, *was, *now)
        old, new = before.T, logits.T
        found = torch.zeros_like(now.size)
        for part in _parts(new):
            log_p = was.log_p(old[part])
            found += (log_p.exp() * (log_p - now.log_p(new[part]))).sum(0)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        [grad], (before, logits, *norms) = grads, ctx.saved_tensors
        slope = weighted_softmax(logits, Normaliser(*norms[2:]), grad)
        return None, slope.sub_(weighted_softmax(before, Normaliser(*norms[:2]), grad))


def _largest(piece: Tensor) -> Tensor:
    """Of every column of `[words, n]`; a narrow piece is reduced as one of fewer and longer rows first."""
    fold = max(1, WIDE // piece.shape[1])
    whole = len(piece) // fold * fold
    if not whole or not piece.is_contiguous():
        return piece.amax(0)
    found = piece[:whole].view(-1, fold * piece.shape[1]).amax(0).view(fold, -1).amax(0)
    return found if whole == len(piece) else torch.maximum(found, piece[whole:].amax(0))


def _parts(words: Tensor) -> Iterator[slice]:
    """Slices of the words `[vocab, n]`: of a size that stays in the cache, or, on an accelerator, all at once."""
    count = max(1, ENTRIES_AT_ONCE // words.shape[1]) if words.device.type == "cpu" else len(words)
    for begin in range(0, len(words), count):
        yield slice(begin, begin + count)
